"""What `python -m kdlab.report` is made of: reading runs and studies, tables, charts, the page."""
