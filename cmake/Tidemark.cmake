# tidemark_library: one static library per folder of src/; its LINKS are the layer rule that
# tools/tidy holds the includes against.
#
#   tidemark_library(NAME [SOURCES a.cpp ...] [LINKS base ...] [EXTERNAL lib ...] [TESTS a_test.cpp ...]
#                    [TEST_LINKS ...])
#
# NAME "io/uring" becomes the target tm_io_uring, its tests the program io_uring_test.

find_package(PkgConfig REQUIRED)
find_package(fmt REQUIRED)
find_program(CCACHE ccache)
if(CCACHE)
  # What ccache wants to be told before it keeps what was compiled with precompiled headers.
  set(CMAKE_CXX_COMPILER_LAUNCHER env CCACHE_SLOPPINESS=pch_defines,time_macros ${CCACHE})
endif()

set(CMAKE_CXX_FLAGS_RELEASE "-O2 -g1")
set(CMAKE_CXX_FLAGS_DEBUG "-O0 -g")
add_compile_options(-Wall -Wextra -Wshadow -Woverloaded-virtual -Wconversion
                    -Wno-sign-conversion -Werror -fno-strict-aliasing -ffile-prefix-map=${CMAKE_SOURCE_DIR}/=)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # -Wmaybe-uninitialized and -Wdangling-pointer misfire inside coroutine frames on GCC 12.
  add_compile_options(-fcoroutines -Wno-maybe-uninitialized -Wno-dangling-pointer -Wno-mismatched-new-delete)
endif()
# Seconds, for one entry of ctest; a program with sanitizers takes ten times as long.
set(TIDEMARK_TEST_TIMEOUT 300)
if(TIDEMARK_SANITIZE)
  set(TIDEMARK_TEST_TIMEOUT 3000)
endif()

if(TIDEMARK_SANITIZE)
  add_compile_options(-fsanitize=${TIDEMARK_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${TIDEMARK_SANITIZE})
endif()
if(TIDEMARK_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all)
  # clang 14 cannot assemble coroutines with the check of function types.
  add_compile_options(-fno-sanitize=function)
  add_link_options(-fsanitize=address,undefined)
endif()
add_link_options(-fuse-ld=lld)
# Of tests themselves, not of what they test: they compile in two thirds of the time.
if(CMAKE_BUILD_TYPE STREQUAL "Release" AND NOT TIDEMARK_SANITIZE)
  set(test_options -O1 -g0)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND (test_options OR TIDEMARK_SANITIZE))       # these misfire there
  list(APPEND test_options -Wno-array-bounds -Wno-restrict -Wno-stringop-overflow -Wno-stringop-overread)
endif()

if(TIDEMARK_TESTS OR TIDEMARK_FUZZ)
  find_package(GTest REQUIRED)
  include(GoogleTest)
endif()

# Headers of the system are compiled once for the libraries and once for the tests: a third of the time
# that a build takes.  A file includes what it uses all the same; the clang build goes without and tells.
if(TIDEMARK_PCH)
  set(system_headers <algorithm> <array> <atomic> <cerrno> <chrono> <coroutine> <cstring> <deque> <functional> <list>
      <map> <memory> <mutex> <optional> <set> <span> <string> <string_view> <utility> <variant> <vector>)
  file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/generated/headers.cpp CONTENT "")
  add_library(tm_headers OBJECT ${CMAKE_BINARY_DIR}/generated/headers.cpp)
  target_precompile_headers(tm_headers PRIVATE ${system_headers})
  if(TIDEMARK_TESTS)
    add_library(tm_test_headers OBJECT ${CMAKE_BINARY_DIR}/generated/headers.cpp)
    target_link_libraries(tm_test_headers PRIVATE GTest::gtest)
    target_compile_options(tm_test_headers PRIVATE ${test_options})
    target_precompile_headers(tm_test_headers PRIVATE ${system_headers} <gtest/gtest.h>)
  endif()
endif()

function(tidemark_precompiled target headers)
  if(TIDEMARK_PCH)
    target_precompile_headers(${target} REUSE_FROM ${headers})
  endif()
endfunction()

function(tidemark_target_name out name)
  string(REPLACE "/" "_" target ${name})
  set(${out} tm_${target} PARENT_SCOPE)
endfunction()

function(tidemark_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINKS;EXTERNAL;TESTS;TEST_LINKS;TEST_EXTERNAL" ${ARGN})
  tidemark_target_name(target ${name})
  set(links)
  foreach(link ${ARG_LINKS})
    tidemark_target_name(link_target ${link})
    list(APPEND links ${link_target})
  endforeach()
  if(ARG_SOURCES)
    add_library(${target} STATIC ${ARG_SOURCES})
    target_include_directories(${target} PUBLIC ${CMAKE_SOURCE_DIR}/src)
    tidemark_precompiled(${target} tm_headers)
    target_link_libraries(${target} PUBLIC ${links} PRIVATE ${ARG_EXTERNAL})
  else()
    add_library(${target} INTERFACE)
    target_include_directories(${target} INTERFACE ${CMAKE_SOURCE_DIR}/src)
    target_link_libraries(${target} INTERFACE ${links} ${ARG_EXTERNAL})
  endif()
  if(ARG_TESTS AND TIDEMARK_TESTS)
    tidemark_test(${name} SOURCES ${ARG_TESTS} LINKS ${name} ${ARG_TEST_LINKS} EXTERNAL ${ARG_TEST_EXTERNAL})
  endif()
endfunction()

# tidemark_test(NAME SOURCES ... LINKS folder ... EXTERNAL lib ...): a GoogleTest program NAME_test, run as a whole
# (one ctest entry a program keeps the everyday run fast).
function(tidemark_test name)
  cmake_parse_arguments(ARG "UNLISTED" "TIMEOUT" "SOURCES;LINKS;EXTERNAL" ${ARGN})
  string(REPLACE "/" "_" test ${name})
  set(links)
  foreach(link ${ARG_LINKS})
    tidemark_target_name(link_target ${link})
    list(APPEND links ${link_target})
  endforeach()
  add_executable(${test}_test ${ARG_SOURCES})
  target_compile_options(${test}_test PRIVATE ${test_options})
  tidemark_precompiled(${test}_test tm_test_headers)
  target_include_directories(${test}_test PRIVATE ${CMAKE_SOURCE_DIR})
  target_link_libraries(${test}_test PRIVATE ${links} ${ARG_EXTERNAL} GTest::gtest_main)
  if(ARG_UNLISTED)
    return()
  endif()
  add_test(NAME ${name} COMMAND ${test}_test --gtest_brief=1 WORKING_DIRECTORY ${CMAKE_BINARY_DIR})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT ${TIDEMARK_TEST_TIMEOUT})
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT})
endfunction()
