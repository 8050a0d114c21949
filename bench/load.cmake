# Figures of runs, the report page and the load generator of `baton bench`.  The first two are a library of their own,
# which needs no part of the engine or the scheduler, so that their tests do not either.
add_library(bench_report STATIC
  histogram.c html.c html_chart.c html_curves.c html_glance.c html_order.c html_runs.c load_chunk.c load_sse.c outcome.c perf_report.c run_file.c)
target_link_libraries(bench_report PUBLIC base m PRIVATE PkgConfig::JANSSON)
target_sources(bench PRIVATE
  environment.c interrupt.c load_command.c load_help.c load_http.c load_options.c load_output.c load_plan.c load_request.c load_run.c load_server.c
  out_file.c summary_json.c)
target_link_libraries(bench PUBLIC bench_report PRIVATE baton_llhttp)
