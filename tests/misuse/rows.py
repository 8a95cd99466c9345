"""All groups of the table."""

from misuse import analysis, arguments, commands, counts, files, genes, graphs, training

GROUPS = {
    "Graphs": graphs.ROWS,
    "Counts": counts.ROWS,
    "Genes": genes.ROWS,
    "Keys, masks, devices and arguments": arguments.ROWS,
    "Training": training.ROWS,
    "Files": files.ROWS,
    "Perturbation, tools and pre-training": analysis.ROWS,
    "`sagefm demo`": commands.ROWS,
}
