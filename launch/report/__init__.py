"""What runs left behind, made readable: python -m launch.report.

sources    transcripts of a run's model, or from a file
errors     what is wrong with them: which words, letters, speakers and lengths; pure
show       the same as tables on the terminal
results    the README's table of results, from the files in configs/results
ablation   a table of what each ingredient of a recipe is worth
compare    a table of two groups of runs, with a confidence interval of their difference
kept       the files that the tables are made from
"""
