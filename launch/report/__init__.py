"""What runs left behind, made readable: python -m launch.report.

results_page     the page configs/results/README.md, from the files beside it
results          its table of error rates on AN4's test set
ablation         a table of the effect of each ingredient of a recipe
compare          a table of two groups of runs, with a confidence interval of their difference
results_io       the files that the tables are made from
sources          transcripts of a run's model, or from a file
error_analysis   what is wrong with them: which words, letters, speakers and lengths; pure
error_tables     the same as tables on the terminal
"""
