# Checks of the tree itself, label `tree`: layers, banned calls, headers alone, text, hardening.
find_package(Python3 REQUIRED COMPONENTS Interpreter)
function(baton_tree_test NAME)
  add_test(NAME ${NAME} COMMAND ${Python3_EXECUTABLE} ${ARGN} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set_tests_properties(${NAME} PROPERTIES LABELS tree TIMEOUT ${BATON_TEST_TIMEOUT} ENVIRONMENT "${BATON_TEST_ENV}")
endfunction()

foreach(check layers banned headers text)
  baton_tree_test(tree_${check} ${CMAKE_SOURCE_DIR}/tests/tools/check_${check}.py)
endforeach()
baton_tree_test(tree_tools_work ${CMAKE_SOURCE_DIR}/tests/tools/test_tools.py)
if(TARGET baton AND NOT BATON_SANITIZE)
  baton_tree_test(tree_hardening ${CMAKE_SOURCE_DIR}/tests/tools/check_hardening.py $<TARGET_FILE:baton>)
endif()
