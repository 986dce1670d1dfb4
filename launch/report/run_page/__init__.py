"""The page of a run: ``report.html``, one file that needs nothing else.

run_record        reads the files of a run
curves            loss, error rates and other numbers over the epochs
line_charts       charts: ticks, lines and marks as geometry
html_page         the templates, and the page as text
"""
