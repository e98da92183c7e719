# The pipeline: tasks -> demonstrations -> warm start -> training -> evaluation -> comparison.
#   snakemake --profile profiles/local all
#   snakemake --profile profiles/local --configfile config/experiments/NAME.yaml -- all
# The ablation of `sweep`: the same with the target `sweep` (see `sdar sweep list`).
from snakemake.utils import min_version

min_version("9.27")


DEFAULT_CONFIG = "config/config.yaml"


configfile: DEFAULT_CONFIG


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/tasks.smk"
include: "workflow/rules/warm_start.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/sweep.smk"


# Seconds each: not worth a place in a queue.
localrules:
    all,
    compare,
    report,
    evaluations,
    policies,
    sweep,
    compare_sweep,


rule all:
    default_target: True
    input:
        RESULTS,
