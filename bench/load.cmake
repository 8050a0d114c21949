# Figures of runs, the report page and the load generator of `baton bench`: a library of their own, which needs no
# part of the engine or the scheduler, so that their tests do not either.
add_library(bench_report STATIC
  histogram.c html.c html_chart.c html_curves.c html_runs.c outcome.c perf_report.c)
target_link_libraries(bench_report PUBLIC base m)
target_link_libraries(bench PUBLIC bench_report)
