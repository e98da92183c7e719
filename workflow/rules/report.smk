# The comparison, its figures and the episode pages; `--report` binds them into one HTML file.
EPISODE_PAGE = LAYOUT.results / "episodes.html"
TABLE_PAGE = LAYOUT.results / "comparison.html"
ANSWERS_PAGE = LAYOUT.results / "answers.html"
RESULTS = [LAYOUT.results / "comparison.md", TABLE_PAGE, ANSWERS_PAGE, EPISODE_PAGE]


rule compare:
    input:
        rules.evaluations.input,
    output:
        table=LAYOUT.results / "comparison.md",
        values=LAYOUT.results / "comparison.json",
        episodes=LAYOUT.results / "episodes.parquet",
    log:
        f"{LOGS}/compare.log",
    benchmark:
        f"{BENCHMARKS}/compare.tsv"
    params:
        config=RESOLVED,
        depends_on=depends_on("compare"),
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    shell:
        "export OMP_NUM_THREADS={threads}; "
        "sdar compare --config {params.config} --root . 2>&1 | tee -i {log}"


rule report:
    input:
        rules.compare.output.values,
        rules.compare.output.table,
        rules.evaluations.input,
    output:
        table=report(
            TABLE_PAGE,
            caption="../report/comparison.rst",
            category="Comparison",
        ),
        answers=report(
            ANSWERS_PAGE,
            caption="../report/answers.rst",
            category="Answers",
        ),
        answers_text=LAYOUT.results / "answers.md",
        answers_values=LAYOUT.results / "answers.json",
        figures=report(
            directory(LAYOUT.results / "figures"),
            patterns=["{name}.svg"],
            caption="../report/figures.rst",
            category="Figures",
        ),
        episodes=report(
            EPISODE_PAGE,
            caption="../report/episodes.rst",
            category="Episodes",
        ),
    log:
        f"{LOGS}/report.log",
    benchmark:
        f"{BENCHMARKS}/report.tsv"
    params:
        config=RESOLVED,
        depends_on=depends_on("report"),
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    shell:
        "export OMP_NUM_THREADS={threads}; "
        "sdar report --config {params.config} --root . 2>&1 | tee -i {log}"
