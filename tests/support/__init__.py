"""What tests share: small networks and runs, studies whose answer is known, other processes' parts."""
