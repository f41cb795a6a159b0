# The CUDA backend as a module, and the same sources on the emulated device (tests/emu).
#
# Two modules with one door (cuda_open in cuda.h):
#   libweir_cuda.so      WEIR_CUDA=ON: nvcc, the real runtime
#   libweir_cuda_emu.so  otherwise, wherever CUDA's headers are: g++, tests/emu instead of the runtime

file(GLOB cuda_kernels CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/cuda/*.cu)
file(GLOB cuda_host CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/cuda/*.c)
list(APPEND cuda_host ${CMAKE_SOURCE_DIR}/kernels/cpu/quant.c ${CMAKE_SOURCE_DIR}/kernels/backend_type.c ${CMAKE_SOURCE_DIR}/kernels/backend_kv.c)

# Where there is no toolkit, the tests' Python packages bring the headers.
file(GLOB cuda_packaged ${CMAKE_SOURCE_DIR}/.deps/venv/lib/python3*/site-packages/nvidia/cu13/include)
find_path(WEIR_CUDA_INCLUDE cuda_runtime_api.h PATHS $ENV{CUDA_HOME}/include /usr/local/cuda/include
  ${cuda_packaged})
include(CheckLanguage)
check_language(CXX)

# cuBLASLt is opened by name when it is needed; here its header is enough.
find_path(WEIR_CUBLASLT_INCLUDE cublasLt.h PATHS $ENV{CUDA_HOME}/include /usr/local/cuda/include
  ${cuda_packaged})

# So is NCCL, for several devices that share a model.
find_path(WEIR_NCCL_INCLUDE nccl.h PATHS $ENV{CUDA_HOME}/include /usr/local/cuda/include
  ${cuda_packaged})

# weir_cuda_module(NAME): the host side, which both modules share.
function(weir_cuda_module name)
  add_library(${name} MODULE ${cuda_host})
  target_link_libraries(${name} PRIVATE weir_base)
  target_link_options(${name} PRIVATE -Wl,--no-undefined)
  target_include_directories(${name} SYSTEM PRIVATE ${WEIR_CUDA_INCLUDE})
  if(WEIR_CUBLASLT_INCLUDE)
    target_include_directories(${name} SYSTEM PRIVATE ${WEIR_CUBLASLT_INCLUDE})
    target_compile_definitions(${name} PRIVATE WEIR_HAVE_CUBLASLT)
  endif()
  if(WEIR_NCCL_INCLUDE)
    target_include_directories(${name} SYSTEM PRIVATE ${WEIR_NCCL_INCLUDE})
    target_compile_definitions(${name} PRIVATE WEIR_HAVE_NCCL)
  endif()
  set_target_properties(${name} PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
endfunction()

if(WEIR_CUDA)
  # Code for Hopper as it is, and for anything since Ampere by way of the driver's compiler.
  if(NOT CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 90a 80)
  endif()
  enable_language(CUDA)
  weir_cuda_module(weir_cuda)
  target_sources(weir_cuda PRIVATE ${cuda_kernels})
  set_target_properties(weir_cuda PROPERTIES CUDA_STANDARD 17 CUDA_RUNTIME_LIBRARY Static)
  # -fmad=false: fused multiply-adds are written where they are meant (exactness).
  target_compile_options(weir_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-fmad=false>)
  # What a user whose device is another one is told (cudadevice.c).
  string(REPLACE ";" "," cuda_compiled_for "${CMAKE_CUDA_ARCHITECTURES}")
  target_compile_definitions(weir_cuda PRIVATE WEIR_CUDA_COMPILED_FOR="${cuda_compiled_for}")
endif()

# One build has one of the two: a source has one language.
if(NOT WEIR_CUDA AND WEIR_CUDA_INCLUDE AND CMAKE_CXX_COMPILER AND
    CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  enable_language(CXX)
  set(emu_test_sources ${CMAKE_SOURCE_DIR}/tests/emu/selftest/emu_kernels.cu)
  set_source_files_properties(${cuda_kernels} ${emu_test_sources} PROPERTIES LANGUAGE CXX)
  # A fused multiply-add is one instruction or a slow call, with the same result.
  include(CheckCSourceRuns)
  check_c_source_runs("int main(void) { return !(__builtin_cpu_supports(\"fma\") &&
    __builtin_cpu_supports(\"avx2\")); }" WEIR_HOST_FMA)
  set(emu_level -O3)
  if(WEIR_SANITIZE)
    set(emu_level -O1)
  endif()
  set(emu_flags -x c++ -include ${CMAKE_SOURCE_DIR}/tests/emu/emu.hpp -Wno-unknown-pragmas ${emu_level})
  if(WEIR_HOST_FMA)
    list(APPEND emu_flags -mavx2 -mfma)
  endif()
  set_source_files_properties(${cuda_kernels} ${CMAKE_SOURCE_DIR}/tests/emu/selftest/emu_kernels.cu
    PROPERTIES COMPILE_OPTIONS "${emu_flags}")
  include(tests/emu/emu.cmake)
  weir_cuda_module(weir_cuda_emu)
  target_sources(weir_cuda_emu PRIVATE ${cuda_kernels})
  target_link_libraries(weir_cuda_emu PRIVATE weir_emu)
  # A copied build folder keeps to its own emulated device: with WEIR_NCCL naming the copy and the
  # module another, a process would have two, neither of which knows the other's streams.
  set_target_properties(weir_cuda_emu PROPERTIES BUILD_RPATH_USE_ORIGIN ON)
  # The shipped kernels, called one by one. Their tests may see half floats, so they are built as
  # kernels' callers, not as kernels.
  file(GLOB emu_kernels_tests CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/emu/kernels/*.cpp)
  add_executable(emu_kernels_test ${emu_kernels_tests} ${cuda_kernels}
    ${CMAKE_SOURCE_DIR}/kernels/cuda/cudaplan.c ${CMAKE_SOURCE_DIR}/engine/worker/sampler.c)
  target_link_libraries(emu_kernels_test PRIVATE weir_base weir_emu)
  target_include_directories(emu_kernels_test SYSTEM PRIVATE ${WEIR_CUDA_INCLUDE})
  set_target_properties(weir_cuda_emu emu_kernels_test PROPERTIES CXX_STANDARD 20 CXX_STANDARD_REQUIRED ON)
endif()
