// Copies of specs: nothing of the host's memory is needed any more, and what changes is the copy's.
#include "core/spec_copy.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/staged.h"
#include "kinds.h"
#include "test.h"

using namespace jit_arena;

namespace {

// A spec, and the memory that it points to.
struct Given {
  std::vector<uint8_t> code{1, 2, 3, 4}, data{5, 6};
  std::vector<RelocSpec> relocs{{Section::kCode, kinds::kAddress, TargetKind::kAddress, 0, 77, 0}};
  std::vector<uint32_t> entries{0, 2}, tags{8, 9};
  std::string name = "a name that is too long to lie in the string itself";
  ExecutorSpec Spec() {
    ExecutorSpec spec;
    spec.bytes[0] = code.data();
    spec.sizes[0] = 4;
    spec.bytes[1] = data.data();
    spec.sizes[1] = 6;
    spec.zero_tails[1] = 4;  // of which `data` has two bytes
    spec.sizes[2] = 3;
    spec.relocs = relocs.data();
    spec.reloc_count = 1;
    spec.exit_count = 2;
    spec.exit_tags = tags.data();
    spec.entries = entries.data();
    spec.entry_count = 2;
    spec.name = name;
    spec.movable = false;
    return spec;
  }
};

std::vector<uint8_t> Read(const SpecCopy& copy, Section section, uint32_t count) {
  std::vector<uint8_t> bytes(count, 0xAA);
  copy.Read(section, 0, bytes.data(), count);
  return bytes;
}

using Bytes = std::vector<uint8_t>;

}  // namespace

TEST(a_copy_needs_nothing_of_what_was_given) {
  auto given = std::make_unique<Given>();
  SpecCopy first(given->Spec());
  std::fill(given->code.begin(), given->code.end(), uint8_t{0xCC});
  given->name.assign(given->name.size(), 'x');
  given.reset();
  SpecCopy copy = std::move(first);  // and may move
  ExecutorSpec spec = copy.Spec();
  CHECK(std::memcmp(spec.bytes[0], "\1\2\3\4", 4) == 0);
  CHECK(std::memcmp(spec.bytes[1], "\5\6\0\0\0\0", 6) == 0);
  CHECK_EQ(spec.zero_tails[1], 0u);  // they are among the bytes
  CHECK(spec.bytes[2] == nullptr);
  CHECK_EQ(spec.sizes[2], 3u);
  CHECK_EQ(spec.reloc_count, 1u);
  CHECK_EQ(spec.relocs[0].target, 77u);
  CHECK_EQ(spec.entry_count, 2u);
  CHECK_EQ(spec.entries[1], 2u);
  CHECK_EQ(spec.exit_tags[1], 9u);
  CHECK_EQ(std::string(spec.name), "a name that is too long to lie in the string itself");
  CHECK(!spec.movable);
}

TEST(a_copy_is_read_and_written) {
  Given given;
  SpecCopy copy(given.Spec());
  size_t memory = copy.MemoryBytes();
  CHECK(Read(copy, Section::kData, 6) == (Bytes{5, 6, 0, 0, 0, 0}));
  CHECK(Read(copy, Section::kState, 3) == (Bytes{0, 0, 0}));
  const uint8_t written[] = {7, 8};
  copy.Write(Section::kState, 1, written, 2);
  CHECK(Read(copy, Section::kState, 3) == (Bytes{0, 7, 8}));
  CHECK(copy.Spec().bytes[2] != nullptr);
  CHECK(copy.MemoryBytes() > memory);
  copy.AddRelocs(given.relocs.data(), 1);
  CHECK_EQ(copy.Spec().reloc_count, 2u);
  copy.KeepRelocs(1);
  CHECK_EQ(copy.Spec().reloc_count, 1u);
}

TEST(staged_copies_leave_out_what_the_record_holds) {
  Given given;
  ExecutorSpec with = given.Spec();
  with.keeps = std::make_shared<int>(1);
  std::weak_ptr<const void> kept = with.keeps;
  Staged staged;
  CHECK(staged.Add(5, Staged::CopyOf(with)).ok());
  with.keeps = nullptr;
  CHECK(kept.expired());
  ExecutorSpec spec = staged[5].Spec();
  CHECK(spec.name.empty() && spec.entry_count == 0 && spec.exit_tags == nullptr);
  CHECK_EQ(spec.exit_count, 2u);
  CHECK(staged.Has(5) && !staged.Has(6));
  CHECK(staged.MetadataBytes() > 0);
  Staged::Ended ended;
  staged.Take(5, ended);
  CHECK(!staged.Has(5) && ended.size() == 1);
}
