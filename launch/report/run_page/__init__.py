"""The page of a run: ``report.html``, one file that needs nothing else.

run_record        reads the files of a run
run_results       error rates with intervals, beside published systems
curves            loss, error rates and other numbers over the epochs
time_shares       where the time went
spoken_samples    transcripts beside their references, and the errors of all
utterance_views   spectrogram, posteriors and words of utterances; their sound
log_remarks       skipped steps, unreadable recordings, warnings
run_settings      flags that differ from the default, commands
line_charts       lines over the epochs as geometry
bar_charts        one number for each of some names as geometry
html_page         templates and stylesheet to text
run_report        the page of a run
run_comparison    the page of several runs
"""
