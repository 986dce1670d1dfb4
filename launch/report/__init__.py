"""Reports on finished runs: python -m launch.report.

results_page     the page configs/results/README.md, from the files beside it
results          the table of error rates on the test set of AN4
ablation         the table of an ablation
compare          the table of two groups of runs, with a confidence interval of the difference
results_io       reads stored results and transcripts
error_analysis   errors by word, letter, speaker and length; pure
error_tables     the analysis as tables on the terminal
"""
