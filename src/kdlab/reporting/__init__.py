"""The parts of `python -m kdlab.report`: reading runs and studies, tables, charts, the page."""
