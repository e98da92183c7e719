# Tasks, and the expert's episodes: in other worlds or, of real data, on the training tasks.
rule tasks:
    output:
        directory(LAYOUT.tasks),
    log:
        f"{LOGS}/tasks.log",
    benchmark:
        f"{BENCHMARKS}/tasks.tsv"
    params:
        config=RESOLVED,
        depends_on=depends_on("tasks"),
    threads: 2
    resources:
        **JOBS["small"],
    shell:
        "export OMP_NUM_THREADS={threads}; "
        "sdar tasks --config {params.config} --root . 2>&1 | tee -i {log}"


# Set in other worlds: it needs no task of this experiment's, unless these are real.
rule demonstrations:
    input:
        LAYOUT.tasks if CONFIG.environment.plays_data else [],
    output:
        directory(LAYOUT.demonstrations),
    log:
        f"{LOGS}/demonstrations.log",
    benchmark:
        f"{BENCHMARKS}/demonstrations.tsv"
    params:
        config=RESOLVED,
        depends_on=depends_on("demonstrations"),
    threads: 1
    resources:
        **JOBS["small"],
    shell:
        "export OMP_NUM_THREADS={threads}; "
        "sdar demonstrations --config {params.config} --root . 2>&1 | tee -i {log}"
