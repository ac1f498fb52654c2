# What node-gyp-build falls back to when the package has no binary for a platform. It compiles one file, which includes
# the others, so that there is no second list of sources.
{
  "targets": [
    {
      "target_name": "jit_arena",
      "sources": ["native/unity.cc"],
      "include_dirs": ["native", "<!(node -p \"require('node-addon-api').include_dir\")"],
      "defines": [
        "NAPI_VERSION=8",
        "NAPI_DISABLE_CPP_EXCEPTIONS",
        "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS",
        "NDEBUG",
      ],
      # std::bad_alloc is caught (native/base/status.h).
      "cflags_cc!": ["-fno-exceptions"],
      "cflags_cc": ["-std=c++20", "-O2", "-fvisibility=hidden", "-fvisibility-inlines-hidden"],
      # Stays loaded when the last worker that uses it ends: other threads may be inside a callback's handler.
      "conditions": [["OS == 'linux'", { "ldflags": ["-Wl,-z,nodelete"] }]],
    },
  ],
}
