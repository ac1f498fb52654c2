#include "programs.h"

#include <sys/mman.h>

namespace bench {

using namespace jit_arena;

namespace {

constexpr arch::RelocKind kPc32 = 2;
constexpr arch::RelocKind kPlt32 = 4;

volatile uint64_t calls_counted = 0;
template <uint64_t kValue>
void CountCall() {
  calls_counted = calls_counted + kValue;
}

}  // namespace

Assembler& Assembler::Relative(TargetKind kind, uint64_t target, bool is_branch, int end) {
  RelocSpec reloc{};
  reloc.section = Section::kCode;
  reloc.kind = is_branch ? kPlt32 : kPc32;
  reloc.target_kind = kind;
  reloc.offset = static_cast<uint32_t>(code.size());
  reloc.target = target;
  reloc.addend = -4 - end;
  relocs.push_back(reloc);
  return Put32(0);
}

ExecutorSpec Assembler::Spec() const {
  ExecutorSpec spec;
  spec.bytes[0] = code.data();
  spec.sizes[0] = static_cast<uint32_t>(code.size());
  spec.relocs = relocs.data();
  spec.reloc_count = static_cast<uint32_t>(relocs.size());
  spec.exit_count = exits;
  return spec;
}

uint64_t Run(OwnArena& own, ExecutorId id, std::initializer_list<uint64_t> arguments) {
  arch::CallFrame frame{};
  std::copy(arguments.begin(), arguments.end(), frame.integers);
  Pinned pinned(own.arena->reclaimer(), *own.self);
  uint64_t entry = own.arena->EntryOf(id);
  BENCH_CHECK(entry != 0);
  own.arena->call_gate()(reinterpret_cast<const void*>(entry), &frame, arch::ReadFloatControl());
  return frame.integer_result;
}

void (*const CallingExecutor::kFunctions[kCalls])() = {CountCall<1>, CountCall<2>, CountCall<4>, CountCall<8>,
                                                       CountCall<16>};

uint64_t CallingExecutor::CallsCounted() { return calls_counted; }

CallingExecutor::CallingExecutor() {
  // The functions are leaves and do not care how the stack is aligned.
  for (auto* function : kFunctions)
    assembler_.Put({0xE8}).Relative(TargetKind::kAddress, reinterpret_cast<uint64_t>(function), true);
  assembler_.Put({0xC3}).Pad(kBytes);
  spec_ = assembler_.Spec();
}

std::vector<ExecutorId> InstallEverySecond(OwnArena& own, const CallingExecutor& executor, uint32_t live) {
  std::vector<ExecutorId> ids(2 * size_t{live});
  std::vector<ExecutorSpec> specs(ids.size(), executor.spec());
  CheckOk(own.arena->Install(specs.data(), static_cast<uint32_t>(specs.size()), ids.data(), own.self));
  std::vector<ExecutorId> living, dying;
  for (size_t i = 0; i < ids.size(); i++) (i % 2 == 0 ? living : dying).push_back(ids[i]);
  CheckOk(own.arena->Free(dying.data(), static_cast<uint32_t>(dying.size()), own.self));
  return living;
}

void CheckCalling(OwnArena& own, const std::vector<ExecutorId>& ids) {
  uint64_t before = CallingExecutor::CallsCounted();
  for (ExecutorId id : ids) Run(own, id);
  BENCH_CHECK(CallingExecutor::CallsCounted() - before == ids.size() * CallingExecutor::kCallsSum);
  BENCH_CHECK(own.arena->CheckInvariants().empty());
}

DualMapping::DualMapping(size_t bytes) : bytes_(bytes) {
  void* rx = mmap(nullptr, bytes, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  BENCH_CHECK(rx != MAP_FAILED);
  void* rw = mremap(rx, 0, bytes, MREMAP_MAYMOVE);
  BENCH_CHECK(rw != MAP_FAILED && mprotect(rw, bytes, PROT_READ | PROT_WRITE) == 0);
  rx_ = static_cast<uint8_t*>(rx);
  rw_ = static_cast<uint8_t*>(rw);
}

DualMapping::~DualMapping() {
  munmap(rx_, bytes_);
  munmap(rw_, bytes_);
}

}  // namespace bench
