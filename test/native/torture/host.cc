#include "torture/host.h"

#include <cstdio>
#include <cstdlib>

namespace torture {

using namespace jit_arena;

namespace {

thread_local std::string last_message;

ErrorCode Keep(const Status& status) {
  if (!status.ok()) last_message = status.error().message;
  return status.code();
}

}  // namespace

const std::string& LastMessage() { return last_message; }

Host::Host(const HostOptions& options) {
  ArenaOptions made;
  made.max_bytes = options.max_bytes;
  made.max_retired_bytes = options.max_retired_bytes;
  made.writer = options.writer;
  made.apart = options.apart;
  made.without_barrier = options.without_barrier;
  made.exit_threshold = 64;  // hot soon
  Result<std::unique_ptr<Arena>> arena = Arena::Create(made);
  if (!arena.ok()) {
    std::printf("no arena: %s\n", arena.status().error().message.c_str());
    std::exit(1);
  }
  arena_ = std::move(arena.value());
}

bool Host::Run(Thread* thread, ExecutorId id, Context* context, Taken* taken) {
  Enter(thread);
  uint64_t entry = arena_->EntryOf(id);
  if (entry != 0) {
    arch::CallFrame frame{};
    frame.integers[0] = reinterpret_cast<uint64_t>(context);
    arena_->call_gate()(reinterpret_cast<const void*>(entry), &frame);
    ExitTaken exit = arena_->ResolveExit(frame.integer_result);
    *taken = {exit.executor, exit.exit};
  }
  Leave(thread);
  return entry != 0;
}

bool Host::Call(Thread* thread, ExecutorId id, Context* context, uint64_t* result) {
  Enter(thread);
  uint64_t entry = arena_->EntryOf(id);
  if (entry != 0) *result = reinterpret_cast<uint64_t (*)(Context*)>(entry)(context);
  Leave(thread);
  return entry != 0;
}

ErrorCode Host::Install(Thread* thread, const std::vector<Program>& programs, ExecutorId* ids) {
  std::vector<ExecutorSpec> specs;
  for (const Program& program : programs) specs.push_back(program.Spec());
  return Keep(arena_->Install(specs.data(), static_cast<uint32_t>(specs.size()), ids, thread));
}

ErrorCode Host::AllocateAndFreeze(Thread* thread, const std::vector<Program>& programs, ExecutorId* ids) {
  uint32_t count = 0;
  for (const Program& program : programs) {
    Result<ExecutorId> id = arena_->Allocate(program.Spec());
    if (!id.ok()) return Keep(id.status());
    ids[count++] = id.value();
  }
  ErrorCode failed = Keep(arena_->Freeze(ids, count, thread));
  if (failed != ErrorCode::kOk && !arena_->Free(ids, count, thread).ok()) std::abort();
  return failed;
}

ErrorCode Host::Free(Thread* thread, const std::vector<ExecutorId>& ids) {
  return Keep(arena_->Free(ids.data(), static_cast<uint32_t>(ids.size()), thread));
}

ErrorCode Host::Invalidate(Thread* thread, ExecutorId id) { return Keep(arena_->Invalidate(id, thread)); }

ErrorCode Host::Link(ExecutorId source, uint32_t exit, ExecutorId target, uint32_t entry) {
  return Keep(arena_->Link(source, exit, target, entry));
}

ErrorCode Host::Unlink(ExecutorId source, uint32_t exit) { return Keep(arena_->Unlink(source, exit)); }

ErrorCode Host::UnlinkAll() { return Keep(arena_->UnlinkAll()); }

ErrorCode Host::Replace(ExecutorId old_id, ExecutorId new_id) { return Keep(arena_->Replace(old_id, new_id)); }

Collected Host::Collect(Thread* thread, bool slice, bool evict_cold) {
  CollectOptions options;
  options.evict_cold = evict_cold;
  options.max_pause_nanos = slice ? 1 : 0;
  CollectResult result = arena_->Collect(options, thread);
  return {result.done, result.moved, std::move(result.evicted)};
}

ErrorCode Host::ExitTag(ExecutorId id, uint32_t exit, uint32_t* tag) {
  Result<uint32_t> found = arena_->ExitTag(id, exit);
  if (found.ok()) *tag = found.value();
  return found.ok() ? ErrorCode::kOk : Keep(found.status());
}

uint64_t Host::ReadState(ExecutorId id, uint32_t offset) {
  uint64_t value = 0;
  if (!arena_->Read(id, Section::kState, offset, reinterpret_cast<uint8_t*>(&value), sizeof value).ok()) std::abort();
  return value;
}

}  // namespace torture
