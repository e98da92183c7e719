# Supervised fine-tuning of the policy: demonstrations, then its own relabelled episodes. Of a
# pretrained model it is a job like training.
rule warm_start:
    input:
        LAYOUT.tasks,
        LAYOUT.demonstrations,
    output:
        directory(LAYOUT.warm_start / "policy"),
    log:
        f"{LOGS}/warm_start.log",
    benchmark:
        f"{BENCHMARKS}/warm_start.tsv"
    params:
        config=RESOLVED,
        depends_on=depends_on("warm_start"),
    threads: CONFIG.execution.warm_start_threads if TINY else TRAINING_THREADS
    resources:
        **JOBS["warm_start"],
    shell:
        ("export OMP_NUM_THREADS={threads}; " if TINY else "ranks ")
        + "sdar warm-start --config {params.config} --root . 2>&1 | tee -i {log}"
