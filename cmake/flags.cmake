# Warnings, hardening and sanitizers, as one interface library that every folder links.
include(CheckCCompilerFlag)
include(CheckIPOSupported)

option(BATON_WERROR "Warnings are errors; OFF for a compiler that knows more of them than ours" ON)

add_library(baton_flags INTERFACE)
target_include_directories(baton_flags INTERFACE ${CMAKE_SOURCE_DIR})
if(BATON_SANITIZE)
  set(BATON_BUILD_NAME ${BATON_SANITIZE})
elseif(CMAKE_BUILD_TYPE MATCHES "^Rel")
  set(BATON_BUILD_NAME release)
else()
  set(BATON_BUILD_NAME debug)
endif()
target_compile_definitions(baton_flags INTERFACE _GNU_SOURCE BATON_VERSION="${PROJECT_VERSION}"
  BATON_BUILD="${BATON_BUILD_NAME}")
target_compile_options(baton_flags INTERFACE
  $<$<COMPILE_LANGUAGE:C>:-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes
    -Wmissing-prototypes -Wvla -Walloca -Wformat=2 -Wswitch-enum -fno-common
    $<$<BOOL:${BATON_WERROR}>:-Werror>>)
# How code is made: said again where it is made at link time.
set(BATON_CODE_FLAGS -fno-delete-null-pointer-checks -fno-strict-overflow -fno-omit-frame-pointer)

# Instrumented code makes these two warnings see what is not there; the other presets keep them.
if(BATON_SANITIZE)
  foreach(warning maybe-uninitialized format-truncation)
    string(MAKE_C_IDENTIFIER "HAVE_${warning}" have)
    check_c_compiler_flag(-W${warning} ${have})
    if(${have})
      target_compile_options(baton_flags INTERFACE $<$<COMPILE_LANGUAGE:C>:-Wno-${warning}>)
    endif()
  endforeach()
endif()

if(BATON_SANITIZE STREQUAL "address")
  target_compile_options(baton_flags INTERFACE -fsanitize=address,undefined -fno-sanitize-recover=all)
  target_link_options(baton_flags INTERFACE -fsanitize=address,undefined)
  target_compile_definitions(baton_flags INTERFACE BATON_SANITIZED)
elseif(BATON_SANITIZE STREQUAL "thread")
  target_compile_options(baton_flags INTERFACE -fsanitize=thread)
  target_link_options(baton_flags INTERFACE -fsanitize=thread)
  target_compile_definitions(baton_flags INTERFACE BATON_SANITIZED)
elseif(BATON_SANITIZE)
  message(FATAL_ERROR "BATON_SANITIZE is '${BATON_SANITIZE}'; it may be empty, address or thread")
else()
  # Fortify needs the optimiser, which every unsanitised preset turns on.
  target_compile_options(baton_flags INTERFACE
    $<$<COMPILE_LANGUAGE:C>:-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3>)
  list(APPEND BATON_CODE_FLAGS -fstack-protector-strong -fstack-clash-protection -fcf-protection=full)
  foreach(flag -ftrivial-auto-var-init=zero -fzero-call-used-regs=used-gpr -fstrict-flex-arrays=3)
    string(MAKE_C_IDENTIFIER "HAVE${flag}" have)
    check_c_compiler_flag(${flag} ${have})
    if(${have})
      list(APPEND BATON_CODE_FLAGS ${flag})
    endif()
  endforeach()
endif()
target_compile_options(baton_flags INTERFACE "$<$<COMPILE_LANGUAGE:C>:${BATON_CODE_FLAGS}>")
if(BATON_FUZZ) # the fuzzer sees what its inputs reach
  target_compile_options(baton_flags INTERFACE $<$<COMPILE_LANGUAGE:C>:-fsanitize=fuzzer-no-link>)
endif()
target_link_options(baton_flags INTERFACE
  -Wl,-z,relro,-z,now,-z,noexecstack -Wl,--as-needed)
set(CMAKE_EXE_LINKER_FLAGS "${CMAKE_EXE_LINKER_FLAGS} -pie")

# Across files: a scheduling decision and a simulated event run through some fifty small functions of as many files,
# and inlining over their borders saves a fifth of the instructions.  The objects hold ordinary code beside what the
# linker optimises, so that tests link as fast as ever; only the program is linked with it.  Results are the same to
# the bit: nothing here lets the compiler reorder arithmetic.
set(BATON_LINK_TIME OFF)
if(NOT BATON_SANITIZE AND NOT BATON_FUZZ AND CMAKE_BUILD_TYPE MATCHES "^Rel" AND CMAKE_C_COMPILER_ID STREQUAL "GNU")
  check_ipo_supported(RESULT BATON_LINK_TIME OUTPUT ignored LANGUAGES C)
endif()

# What is cleared or copied is mostly between 64 and 256 bytes long (events, actions, answers): string instructions, which
# the compiler would take for that, need longer to start than the whole takes with plain stores.
set(BATON_ACROSS_FLAGS -O3 -flto=auto)
if(BATON_LINK_TIME)
  foreach(what memset memcpy)
    set(flag -m${what}-strategy=unrolled_loop:256:noalign,libcall:-1:noalign)
    check_c_compiler_flag(${flag} HAVE_${what}_strategy)
    if(HAVE_${what}_strategy)
      list(APPEND BATON_ACROSS_FLAGS ${flag})
    endif()
  endforeach()
endif()

function(baton_optimize_across_files)
  if(BATON_LINK_TIME)
    foreach(target ${ARGN})
      target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:C>:${BATON_ACROSS_FLAGS};-ffat-lto-objects>")
    endforeach()
  endif()
endfunction()
