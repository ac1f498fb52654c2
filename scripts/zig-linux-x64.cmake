# A CMake toolchain: Zig's clang, against glibc 2.17 and with its own libc++ linked in, so that the binary loads on every
# glibc distribution that runs Node 20. scripts/prebuild.mjs installs Zig where this looks for it.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR x86_64)
set(CMAKE_CXX_COMPILER "${CMAKE_CURRENT_LIST_DIR}/../build-zig/tools/node_modules/.bin/zig" c++ -target x86_64-linux-gnu.2.17
    -Wno-nullability-completeness) # asked of every pointer in Zig's own libc++
set(CMAKE_MODULE_LINKER_FLAGS_INIT "-s")
