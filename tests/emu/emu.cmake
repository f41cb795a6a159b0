# libweir_emu.so: the emulated device with its libraries, one state a process. It stands where
# libcuda, libcudart, libcublasLt and libnccl stand on a machine with a GPU.

file(GLOB emu_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/emu/*.cpp)
set(emu_libraries)
find_path(WEIR_NCCL_INCLUDE nccl.h PATHS $ENV{CUDA_HOME}/include /usr/local/cuda/include
  ${WEIR_CUDA_INCLUDE})
if(WEIR_NCCL_INCLUDE)
  file(GLOB emu_nccl_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/emu/libs/emu_nccl*.cpp)
  list(APPEND emu_libraries ${emu_nccl_sources})
endif()
find_path(WEIR_CUBLASLT_INCLUDE cublasLt.h PATHS $ENV{CUDA_HOME}/include /usr/local/cuda/include
  ${WEIR_CUDA_INCLUDE})
if(WEIR_CUBLASLT_INCLUDE)
  list(APPEND emu_libraries ${CMAKE_SOURCE_DIR}/tests/emu/libs/emu_cublas.cpp)
endif()
if(WEIR_SANITIZE MATCHES thread)
  # Races between a kernel's threads: the kernels are watched, the scheduler that interleaves them
  # is not, and says itself what orders memory (tests/emu/emu_order.hpp).
  set_source_files_properties(${emu_sources} ${CMAKE_SOURCE_DIR}/tests/emu/selftest/emu_test.cpp
    ${CMAKE_SOURCE_DIR}/tests/emu/selftest/emu_hopper_test.cpp
    PROPERTIES COMPILE_OPTIONS "-fno-sanitize=thread" COMPILE_DEFINITIONS WEIR_EMU_TSAN)
endif()
add_library(weir_emu SHARED ${emu_sources} ${emu_libraries})
target_link_libraries(weir_emu PUBLIC weir_options)
target_include_directories(weir_emu SYSTEM PUBLIC ${WEIR_CUDA_INCLUDE})
if(WEIR_NCCL_INCLUDE)
  target_include_directories(weir_emu SYSTEM PUBLIC ${WEIR_NCCL_INCLUDE})
endif()
if(WEIR_CUBLASLT_INCLUDE)
  target_include_directories(weir_emu SYSTEM PUBLIC ${WEIR_CUBLASLT_INCLUDE})
endif()

# weir_emu_program(NAME SOURCE...): a program on the emulated device.
function(weir_emu_program name)
  add_executable(${name} ${ARGN})
  target_link_libraries(${name} PRIVATE weir_emu)
  set_target_properties(${name} PROPERTIES CXX_STANDARD 20 CXX_STANDARD_REQUIRED ON)
endfunction()

weir_emu_program(emu_test ${CMAKE_SOURCE_DIR}/tests/emu/selftest/emu_test.cpp
  ${CMAKE_SOURCE_DIR}/tests/emu/selftest/emu_kernels.cu)
weir_emu_program(emu_nccl_test ${CMAKE_SOURCE_DIR}/tests/emu/selftest/emu_nccl_test.cpp)
set(emu_hopper ${CMAKE_SOURCE_DIR}/tests/emu/selftest/emu_hopper.cu)
set_source_files_properties(${emu_hopper} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "${emu_flags}")
weir_emu_program(emu_hopper_test ${CMAKE_SOURCE_DIR}/tests/emu/selftest/emu_hopper_test.cpp ${emu_hopper})
weir_emu_program(emu_device_test ${CMAKE_SOURCE_DIR}/tests/emu/selftest/emu_device_test.cpp)
weir_emu_program(emu_cublas_test ${CMAKE_SOURCE_DIR}/tests/emu/selftest/emu_cublas_test.cpp)
set_target_properties(weir_emu PROPERTIES CXX_STANDARD 20 CXX_STANDARD_REQUIRED ON)
