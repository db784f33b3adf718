#!/bin/bash
# Workers of one study on as many tasks as SLURM gives, one trial at a time on each:
#
#   sbatch --ntasks=16 sweeps/slurm.sh sweeps/kd.yaml storage=postgresql://USER@HOST/DATABASE data=cifar100
#
# A journal file does for some dozens of workers, on a file system whose locks reach all nodes; a server for more.
# What is running when the time is up goes back in the queue, and the same sbatch line goes on from there.
#SBATCH --job-name=kdlab
#SBATCH --ntasks=8
#SBATCH --cpus-per-task=4
#SBATCH --gpus-per-task=1
#SBATCH --time=08:00:00
#SBATCH --signal=TERM@60

set -eu
srun --kill-on-bad-exit=0 "${PYTHON:-.venv/bin/python}" -m kdlab.sweep "$@" workers=1
