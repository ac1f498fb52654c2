// arm64: executors that use every reloc kind, executed before and after moves, in memory of every writer: the CPU is
// the decoder. And traces, linked and moved.
#include <elf.h>

#include <cstdint>
#include <cstdio>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "base/bits.h"
#include "core/arena.h"
#include "test.h"

using namespace jit_arena;

namespace {

constexpr uint64_t kOutside = 0x1111;
uint64_t outside_constant = 0x0123'4567'89AB'CDEF;
extern "C" uint64_t RunTestOutside() { return kOutside; }

// Instructions, by what they do; x19 is the sum.
enum Word : uint32_t {
  kBtiC = 0xD503245F,
  kAdrpX10 = 0x9000000A,
  kAddX10 = 0x9100014A,
  kAdrX10 = 0x1000000A,
  kLoadByte = 0x3940014B,       // ldrb w11, [x10]
  kLoadHalf = 0x7940014B,       // ldrh w11, [x10]
  kLoadWord = 0xB940014B,       // ldr w11, [x10]
  kLoadLong = 0xF940014B,       // ldr x11, [x10]
  kLoadQuad = 0x3DC00140,       // ldr q0, [x10]
  kQuadToX11 = 0x9E66000B,      // fmov x11, d0
  kLoadAddress = 0xF940014A,    // ldr x10, [x10]
  kLiteralX10 = 0x5800000A,     // ldr x10, place
  kLoadSigned = 0xB980014B,     // ldrsw x11, [x10]
  kAddX10X11 = 0x8B0B014A,      // add x10, x10, x11
  kSumX11 = 0x8B0B0273,         // add x19, x19, x11
  kSumX0 = 0x8B000273,          // add x19, x19, x0
  kSumConstant = 0x91000273,    // add x19, x19, #0
  kCompare = 0xEB1F03FF,        // cmp xzr, xzr
  kBranchIfEqual = 0x54000000,  // b.eq
  kBranchIfZero = 0xB400001F,   // cbz xzr
  kTestAndBranch = 0x3600001F,  // tbz wzr, #0
  kBranch = 0x14000000,
  kCall = 0x94000000,
  kCallX10 = 0xD63F0140,  // blr x10
  kReturn = 0xD65F03C0,
  kUndefined = 0,
};

constexpr uint32_t kLeaf = 8;  // offset of code that adds a constant to the sum
constexpr uint32_t kLong = 16, kWord32 = 24, kHalf = 28, kByte = 30, kOwnLeaf = 32, kOwnLong = 40, kNear = 48,
                   kFar = 56, kTheirLeaf = 64, kDataBytes = 80;

struct Made {
  std::vector<uint32_t> code;
  std::vector<uint8_t> data = std::vector<uint8_t>(kDataBytes), state = std::vector<uint8_t>(16);
  std::vector<RelocSpec> relocs;
  uint64_t sum = 0;
  uint32_t leaf_adds = 0;
  bool movable = true;

  uint32_t here() const { return static_cast<uint32_t>(4 * code.size()); }
  Made& Put(std::initializer_list<uint32_t> words) {
    code.insert(code.end(), words);
    return *this;
  }
  Made& Put(uint32_t word, int kind, RelocSpec to) {
    to.section = Section::kCode;
    to.kind = static_cast<arch::RelocKind>(kind);
    to.offset = here();
    relocs.push_back(to);
    return Put({word});
  }
  // ADRP and what adds the rest.
  Made& PutPair(uint32_t second, int kind, const RelocSpec& to, int page = R_AARCH64_ADR_PREL_PG_HI21) {
    return Put(kAdrpX10, page, to).Put(second, kind, to);
  }
  void PutData(uint32_t offset, int kind, RelocSpec to) {
    to.section = Section::kData;
    to.kind = static_cast<arch::RelocKind>(kind);
    to.offset = offset;
    relocs.push_back(to);
  }
  ExecutorSpec Spec() const {
    ExecutorSpec spec;
    spec.bytes[0] = reinterpret_cast<const uint8_t*>(code.data());
    spec.bytes[1] = data.data();
    spec.bytes[2] = state.data();
    spec.sizes[0] = here();
    spec.sizes[1] = static_cast<uint32_t>(data.size());
    spec.sizes[2] = static_cast<uint32_t>(state.size());
    spec.aligns[1] = 16;
    spec.relocs = relocs.data();
    spec.reloc_count = static_cast<uint32_t>(relocs.size());
    spec.movable = movable;
    return spec;
  }
};

RelocSpec To(TargetKind kind, uint64_t target, int64_t addend = 0) {
  return {Section::kCode, 0, kind, 0, target, addend};
}
RelocSpec OwnCode(uint64_t at) { return To(TargetKind::kOwnCode, at); }
RelocSpec OwnData(uint64_t at) { return To(TargetKind::kOwnData, at); }
template <class Thing>
RelocSpec Outside(Thing* thing) {
  return To(TargetKind::kAddress, reinterpret_cast<uint64_t>(thing));
}
RelocSpec Theirs(ExecutorId id, Section section, uint32_t offset) {
  RelocSpec to = To(TargetKind::kExecutor, id);
  to.target_section = section;
  to.target_offset = offset;
  return to;
}

// Adds to the sum all that the executor has, and what `other` (0: none) has. Where data lies apart, it may be out of
// the reach of ADR and of literals.
Made MakeFunction(uint32_t seed, bool apart, ExecutorId other, const Made& of_other) {
  Made made;
  made.movable = seed % 5 != 0;
  made.leaf_adds = seed % 4096;
  auto constant = [&](uint32_t at) { return (seed + at) * uint64_t{0x9e3779b97f4a7c15}; };
  for (uint32_t at : {0u, 8u, kLong}) StoreAs<uint64_t>(made.data.data() + at, constant(at));
  StoreAs<uint32_t>(made.data.data() + kWord32, static_cast<uint32_t>(constant(kWord32)));
  StoreAs<uint16_t>(made.data.data() + kHalf, static_cast<uint16_t>(constant(kHalf)));
  made.data[kByte] = static_cast<uint8_t>(constant(kByte));
  StoreAs<uint64_t>(made.state.data(), constant(1));
  made.data.resize(kDataBytes + 16 * (seed * 7 % 40));

  made.Put({kBtiC}).Put(kBranch, R_AARCH64_JUMP26, OwnCode(16));
  made.Put({kSumConstant | made.leaf_adds << 10, kReturn});
  made.Put({0xA9BE7BFD, 0xF9000BF3, 0x910003FD, 0xD2800013});  // stp x29, x30; str x19; mov x29, sp; mov x19, #0
  for (uint32_t i = 0; i < seed * 37 % 300; i++) made.Put({0xD503201F});  // nop
  made.PutPair(kLoadByte, R_AARCH64_LDST8_ABS_LO12_NC, OwnData(kByte)).Put({kSumX11});
  made.PutPair(kLoadHalf, R_AARCH64_LDST16_ABS_LO12_NC, OwnData(kHalf)).Put({kSumX11});
  made.PutPair(kLoadWord, R_AARCH64_LDST32_ABS_LO12_NC, OwnData(kWord32)).Put({kSumX11});
  made.PutPair(kLoadLong, R_AARCH64_LDST64_ABS_LO12_NC, OwnData(kLong), R_AARCH64_ADR_PREL_PG_HI21_NC).Put({kSumX11});
  made.PutPair(kLoadQuad, R_AARCH64_LDST128_ABS_LO12_NC, OwnData(0)).Put({kQuadToX11, kSumX11});
  made.PutPair(kAddX10, R_AARCH64_ADD_ABS_LO12_NC, OwnData(8)).Put({kLoadLong, kSumX11});
  made.PutPair(kLoadLong, R_AARCH64_LDST64_ABS_LO12_NC, To(TargetKind::kOwnState, 0)).Put({kSumX11});
  auto load_address_of = [&](uint32_t at) {
    apart ? made.PutPair(kAddX10, R_AARCH64_ADD_ABS_LO12_NC, OwnData(at))
          : made.Put(kAdrX10, R_AARCH64_ADR_PREL_LO21, OwnData(at));
  };
  auto load_address_in = [&](uint32_t at) {
    apart ? made.PutPair(kLoadAddress, R_AARCH64_LDST64_ABS_LO12_NC, OwnData(at))
          : made.Put(kLiteralX10, R_AARCH64_LD_PREL_LO19, OwnData(at));
  };
  load_address_of(kLong), made.Put({kLoadLong, kSumX11});
  load_address_of(8), made.Put({kLoadLong, kSumX11});
  made.sum += made.data[kByte] + LoadAs<uint16_t>(made.data.data() + kHalf) +
              LoadAs<uint32_t>(made.data.data() + kWord32) + 2 * constant(kLong) + constant(0) + 2 * constant(8) +
              constant(1);

  made.PutData(kOwnLeaf, R_AARCH64_ABS64, OwnCode(kLeaf));
  made.PutData(kOwnLong, R_AARCH64_ABS64, OwnData(kLong));
  made.PutData(kNear, R_AARCH64_PREL32, OwnData(kLong));
  made.PutData(kFar, R_AARCH64_PREL64, OwnData(kLong));
  load_address_in(kOwnLong), made.Put({kLoadLong, kSumX11});
  load_address_of(kNear), made.Put({kLoadSigned, kAddX10X11, kLoadLong, kSumX11});
  load_address_of(kFar), made.Put({kLoadLong, kAddX10X11, kLoadLong, kSumX11});
  made.sum += 3 * constant(kLong);

  // Branches over a trap, calls of the leaf in three ways.
  made.Put({kCompare}).Put(kBranchIfEqual, R_AARCH64_CONDBR19, OwnCode(made.here() + 8)).Put({kUndefined});
  made.Put(kBranchIfZero, R_AARCH64_CONDBR19, OwnCode(made.here() + 8)).Put({kUndefined});
  made.Put(kTestAndBranch, R_AARCH64_TSTBR14, OwnCode(made.here() + 8)).Put({kUndefined});
  made.Put(kCall, R_AARCH64_CALL26, OwnCode(kLeaf));
  load_address_in(kOwnLeaf), made.Put({kCallX10});
  made.PutPair(kLoadAddress, R_AARCH64_LD64_GOT_LO12_NC, To(TargetKind::kOwnCode, kLeaf - 4, 4), R_AARCH64_ADR_GOT_PAGE)
      .Put({kCallX10});
  made.sum += 3 * uint64_t{made.leaf_adds};

  // Outside: by a veneer, by a slot, and by a constant in parts.
  made.Put(kCall, R_AARCH64_CALL26, Outside(&RunTestOutside)).Put({kSumX0});
  made.PutPair(kLoadAddress, R_AARCH64_LD64_GOT_LO12_NC, Outside(&RunTestOutside), R_AARCH64_ADR_GOT_PAGE);
  made.Put({kCallX10, kSumX0});
  made.Put(0xD2E0000A, R_AARCH64_MOVW_UABS_G3, Outside(&outside_constant));
  made.Put(0xF2C0000A, R_AARCH64_MOVW_UABS_G2_NC, Outside(&outside_constant));
  made.Put(0xF2A0000A, R_AARCH64_MOVW_UABS_G1_NC, Outside(&outside_constant));
  made.Put(0xF280000A, R_AARCH64_MOVW_UABS_G0_NC, Outside(&outside_constant)).Put({kLoadLong, kSumX11});
  made.sum += 2 * kOutside + outside_constant;

  if (other != 0) {
    made.Put(kCall, R_AARCH64_CALL26, Theirs(other, Section::kCode, kLeaf));
    made.PutPair(kLoadAddress, R_AARCH64_LD64_GOT_LO12_NC, Theirs(other, Section::kCode, kLeaf), R_AARCH64_ADR_GOT_PAGE)
        .Put({kCallX10});
    made.PutData(kTheirLeaf, R_AARCH64_ABS64, Theirs(other, Section::kCode, kLeaf));
    load_address_in(kTheirLeaf), made.Put({kCallX10});
    made.PutPair(kLoadLong, R_AARCH64_LDST64_ABS_LO12_NC, Theirs(other, Section::kData, kLong)).Put({kSumX11});
    made.PutPair(kAddX10, R_AARCH64_ADD_ABS_LO12_NC, Theirs(other, Section::kState, 0)).Put({kLoadLong, kSumX11});
    made.sum += 3 * uint64_t{of_other.leaf_adds} + LoadAs<uint64_t>(of_other.data.data() + kLong) +
                LoadAs<uint64_t>(of_other.state.data());
    if (!of_other.movable) {  // a constant in parts follows nothing
      made.Put(0xD2E0000A, R_AARCH64_MOVW_UABS_G3, Theirs(other, Section::kData, 8));
      made.Put(0xF2C0000A, R_AARCH64_MOVW_UABS_G2, Theirs(other, Section::kData, 8));
      made.Put(0xF2A0000A, R_AARCH64_MOVW_UABS_G1_NC, Theirs(other, Section::kData, 8));
      made.Put(0xF280000A, R_AARCH64_MOVW_UABS_G0_NC, Theirs(other, Section::kData, 8)).Put({kLoadLong, kSumX11});
      made.sum += LoadAs<uint64_t>(of_other.data.data() + 8);
    }
  }
  made.Put({0xAA1303E0, 0xF9400BF3, 0xA8C27BFD, kReturn});  // mov x0, x19; ldr x19; ldp x29, x30; ret
  return made;
}

class Host {
 public:
  Host(os::WriterKind writer, bool apart) {
    ArenaOptions options;
    options.max_bytes = 8 * kMiB;
    options.writer = writer;
    options.apart = apart;
    options.full_records = true;
    Result<std::unique_ptr<Arena>> made = Arena::Create(options);
    CHECK(made.ok());
    arena = std::move(made.value());
    self = arena->reclaimer().Attach();
  }
  ~Host() { CHECK_EQ(arena->CheckInvariants(), ""); }

  ExecutorId Install(const ExecutorSpec& spec) {
    ExecutorId id = 0;
    Status failed = arena->Install(&spec, 1, &id, self);
    CHECK_EQ(std::string(failed.ok() ? "" : failed.error().message), "");
    return id;
  }
  uint64_t Call(ExecutorId id, uint64_t argument = 0) {
    Pinned pinned(arena->reclaimer(), *self);
    arch::CallFrame frame{};
    frame.integers[0] = argument;
    arena->call_gate()(reinterpret_cast<const void*>(arena->EntryOf(id)), &frame, arch::ReadFloatControl());
    return frame.integer_result;
  }
  uint64_t AddressOf(ExecutorId id) { return arena->Describe(id).value().address; }
  // Installs what fills slabs, frees most of it, and collects. How many bytes have moved.
  uint64_t Collect() {
    arena->Free(filling_.data(), static_cast<uint32_t>(filling_.size()), self).Ignore();
    filling_.clear();
    CollectResult result = arena->Collect({}, self);
    return result.moved;
  }
  void Fill(uint32_t bytes) {
    ExecutorSpec spec;
    spec.sizes[0] = bytes;
    spec.sizes[1] = bytes;
    spec.sizes[2] = bytes;
    filling_.push_back(Install(spec));
  }

  std::unique_ptr<Arena> arena;
  PinSlot* self;

 private:
  std::vector<ExecutorId> filling_;
};

// All of them work under qemu-user 10, which executes what was there before unless it is told of a change.
bool IsAvailable(os::WriterKind writer) {
  for (const os::ProbeResult& probed : os::Probe()) {
    if (probed.writer != writer) continue;
    CHECK(probed.available);
    if (!probed.available) std::printf("  %s: %s\n", os::WriterName(writer), probed.reason.c_str());
    return probed.available;
  }
  return false;
}

constexpr os::WriterKind kWriters[] = {os::WriterKind::kAlias, os::WriterKind::kProcmem, os::WriterKind::kFlip};

TEST(run_every_kind_before_and_after_moves) {
  for (os::WriterKind writer : kWriters) {
    if (!IsAvailable(writer)) continue;
    for (bool apart : {false, true}) {
      const int failed_before = test::failed_checks;
      Host host(writer, apart);
      std::vector<ExecutorId> ids;
      std::vector<Made> mades;
      uint64_t moved = 0;
      for (uint32_t round = 0; round < 4; round++) {
        for (uint32_t i = 0; i < 12; i++) {
          const uint32_t seed = round * 12 + i + 1;
          mades.push_back(MakeFunction(seed, apart, ids.empty() ? 0 : ids.back(), ids.empty() ? Made{} : mades.back()));
          ids.push_back(host.Install(mades.back().Spec()));
          for (int filler = 0; filler < 4; filler++) host.Fill(2000 + 1600 * seed % 9000);
        }
        for (size_t i = 0; i < ids.size(); i++) CHECK_EQ(host.Call(ids[i]), mades[i].sum);
        moved += host.Collect();
        for (size_t i = 0; i < ids.size(); i++) CHECK_EQ(host.Call(ids[i]), mades[i].sum);
        CHECK_EQ(host.arena->CheckInvariants(), "");
      }
      CHECK(moved > 20);
      if (test::failed_checks != failed_before)
        std::printf("  (%s, %s)\n", os::WriterName(writer), apart ? "apart" : "together");
    }
  }
}

// A trace sets its warm byte, counts in context[0], and takes exit 0 while context[1] is not 0; it keeps no register.
Made Trace(uint32_t adds) {
  Made made;
  made.data.clear();
  made.state.clear();
  auto record = To(TargetKind::kExit, 0), warm = To(TargetKind::kWarm, 0);
  made.Put({kBtiC, 0x5280002B});                                        // mov w11, #1
  made.PutPair(0x3900014B, R_AARCH64_LDST8_ABS_LO12_NC, warm);          // strb w11, [x10]
  made.Put({0xF940000B, 0x9100016B | adds << 10, 0xF900000B});          // context[0] += adds
  made.Put({0xD280001E, 0xF940040B});                                   // mov x30, #0; ldr x11, [x0, 8]
  made.Put(0xB400000B, R_AARCH64_CONDBR19, OwnCode(made.here() + 28));  // cbz x11, done
  made.Put({0xD100056B, 0xF900040B});                                   // sub x11, x11, 1; str
  made.Put(0x90000010, R_AARCH64_ADR_PREL_PG_HI21, record);             // adrp x16, record
  made.Put(0x91000210, R_AARCH64_ADD_ABS_LO12_NC, record);              // add x16, x16, record
  made.Put({0xF9400211, 0xD61F0220});                                   // ldr x17, [x16]; br x17
  made.Put(kBranch, R_AARCH64_JUMP26, To(TargetKind::kDone, 0));        // done:
  return made;
}

TEST(run_traces_linked_and_moved) {
  for (os::WriterKind writer : kWriters) {
    if (!IsAvailable(writer)) continue;
    Host host(writer, false);
    std::vector<ExecutorId> ids;
    for (uint32_t i = 0; i < 40; i++) {
      Made made = Trace(i + 1);
      ExecutorSpec spec = made.Spec();
      spec.exit_count = 1;
      ids.push_back(host.Install(spec));
      for (int filler = 0; filler < 3; filler++) host.Fill(4000);
    }
    uint64_t context[2] = {0, 1};
    auto run = [&](ExecutorId id, uint64_t exits) {
      context[0] = 0;
      context[1] = exits;
      Pinned pinned(host.arena->reclaimer(), *host.self);
      arch::CallFrame frame{};
      frame.integers[0] = reinterpret_cast<uint64_t>(context);
      host.arena->call_gate()(reinterpret_cast<const void*>(host.arena->EntryOf(id)), &frame, arch::ReadFloatControl());
      return host.arena->ResolveExit(frame.integer_result);
    };
    CHECK_EQ(run(ids[3], 1).executor, ids[3]);  // cold
    CHECK_EQ(context[0], 4);
    CHECK_EQ(run(ids[3], 0).executor, 0);  // done
    for (uint32_t i = 0; i + 1 < 40; i++) CHECK(host.arena->Link(ids[i], 0, ids[i + 1], 0).ok());
    for (int round = 0; round < 2; round++) {
      CHECK_EQ(run(ids[0], 39).executor, 0);
      CHECK_EQ(context[0], 40 * 41 / 2);
      CHECK_EQ(run(ids[0], 1000).executor, ids[39]);
      if (round == 0) CHECK(host.Collect() > 10);
    }
    CHECK(host.arena->UnlinkAll().ok());
    CHECK_EQ(run(ids[5], 1).executor, ids[5]);
    int hot = 0;
    for (int i = 0; i < 1100; i++) hot += run(ids[5], 1).hot;
    CHECK_EQ(hot, 1);
  }
}

TEST(run_refusals_name_kinds_of_this_cpu) {
  Host host(os::WriterKind::kFlip, false);
  auto refusal = [&](const RelocSpec& to, int kind, bool movable = true) {
    Made made;
    made.movable = movable;
    made.Put({kReturn}).Put(0, kind, to);
    ExecutorSpec spec = made.Spec();
    ExecutorId id = 0;
    Status failed = host.arena->Install(&spec, 1, &id, host.self);
    CHECK(!failed.ok());
    return failed.ok() ? Error{} : failed.error();
  };
  Error far = refusal(Outside(&outside_constant), R_AARCH64_ADR_PREL_LO21);
  CHECK(far.code == ErrorCode::kRelocRange && far.kind == "R_AARCH64_ADR_PREL_LO21");
  CHECK(far.message.find("R_AARCH64_ADR_GOT_PAGE") != std::string::npos);
  CHECK(refusal(Outside(&RunTestOutside), R_AARCH64_CONDBR19).code == ErrorCode::kRelocRange);
  CHECK(refusal(OwnData(20), R_AARCH64_LDST64_ABS_LO12_NC).code == ErrorCode::kRelocRange);  // not a multiple of 8
  CHECK(refusal(OwnCode(2), R_AARCH64_CALL26).code == ErrorCode::kRelocRange);
  CHECK(refusal(OwnData(0), R_AARCH64_MOVW_UABS_G0_NC).code == ErrorCode::kRelocRange);      // it moves
  CHECK(refusal(OwnData(0), R_AARCH64_MOVW_UABS_G0, false).code == ErrorCode::kRelocRange);  // too long
  CHECK(refusal(OwnData(0), R_X86_64_PC32).code == ErrorCode::kRelocKind);
}

}  // namespace
