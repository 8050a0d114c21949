# Engine: model files, CPU backend, and the helper that the NumPy comparison drives.
add_executable(engine_run ${CMAKE_SOURCE_DIR}/tests/engine_ref/engine_run.c)
target_link_libraries(engine_run PRIVATE engine base)
