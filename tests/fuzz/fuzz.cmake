# The fuzz targets. Always: in fuzz_corpus, the Criterion program that replays the corpora. With
# WEIR_FUZZ and clang: one libFuzzer program a target too. See tests/fuzz/README.md.
option(WEIR_FUZZ "Build the libFuzzer programs (clang)" OFF)

set(fuzz_shared ${CMAKE_SOURCE_DIR}/tests/fuzz/fuzz.c ${CMAKE_SOURCE_DIR}/tests/fuzz/fuzz_say.c)
file(GLOB fuzz_targets CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/fuzz/fuzz_*.c)
list(REMOVE_ITEM fuzz_targets ${fuzz_shared})
# Of layers that stand on the kernels, the files that parse: the kernels need not be built.
add_library(weir_fuzzed STATIC EXCLUDE_FROM_ALL
  kvtransfer/frame.c kvtransfer/kvt.c kvtransfer/shm.c kvtransfer/tcp.c bench/httpclient.c bench/eventstream.c)
target_link_libraries(weir_fuzzed PUBLIC weir_options weir_base weir_llhttp)

if(TARGET fuzz_corpus)
  target_sources(fuzz_corpus PRIVATE ${fuzz_shared} ${fuzz_targets})
endif()

if(WEIR_FUZZ)
  if(NOT CMAKE_C_COMPILER_ID MATCHES "Clang")
    message(FATAL_ERROR "WEIR_FUZZ needs clang: -DCMAKE_C_COMPILER=clang")
  endif()
  target_compile_options(weir_options INTERFACE -fsanitize=fuzzer-no-link)
  add_custom_target(fuzz_all)
  foreach(source ${fuzz_targets})
    get_filename_component(name ${source} NAME_WE)
    add_executable(${name} EXCLUDE_FROM_ALL ${source} ${fuzz_shared})
    target_link_libraries(${name} PRIVATE weir_fuzzed weir_net weir_server weir_core weir_text)
    target_link_options(${name} PRIVATE -fsanitize=fuzzer)
    target_compile_definitions(${name} PRIVATE WEIR_FUZZ)
    add_dependencies(fuzz_all ${name})
  endforeach()
endif()
