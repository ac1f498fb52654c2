// Results of the core as JavaScript objects, with the names of the TypeScript API.
#pragma once

#include <napi.h>

#include "core/arena.h"

namespace jit_arena::node {

// Counts and sizes: below 2^53, so a number holds them.
inline Napi::Number ToNumber(Napi::Env env, uint64_t value) {
  return Napi::Number::New(env, static_cast<double>(value));
}

Napi::Object ToJs(Napi::Env env, const Error& error);
Napi::Object ToJs(Napi::Env env, const ExecutorInfo& info);
Napi::Object ToJs(Napi::Env env, const FoundAddress& found);
Napi::Object ToJs(Napi::Env env, const CompactionPlan& plan);
Napi::Object ToJs(Napi::Env env, const CollectResult& result);
Napi::Object ToJs(Napi::Env env, const ArenaStats& stats);
Napi::Array ToJs(Napi::Env env, const std::vector<SlabMap>& slabs);
// `broken`: what FindBrokenRule says.
Napi::Object ToJs(Napi::Env env, const std::vector<Problem>& problems, const std::string& broken);

}  // namespace jit_arena::node
