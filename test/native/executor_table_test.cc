// The table of executors: ids and generations, kept relocs, notes; and the array below it, whose elements never move.
#include "core/executor_table.h"

#include <atomic>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "arch/kept_relocs.h"
#include "core/chunked_array.h"
#include "test.h"

using namespace jit_arena;

TEST(table_ids_are_an_index_and_a_generation) {
  ExecutorTable table(100);
  uint32_t first = table.Add(), second = table.Add();
  CHECK_EQ(first, 1);  // 0 means none
  CHECK_EQ(second, 2);
  ExecutorId id = table.IdOf(second);
  CHECK_EQ(id, 2 + (uint64_t{1} << 32));
  CHECK_EQ(IndexOf(id), 2);
  CHECK_EQ(GenerationOf(id), 1);
  CHECK(table.Find(id) == &table[second]);
  CHECK(table[second].State() == ExecutorState::kWritable);
  // JavaScript's numbers hold every id exactly.
  CHECK(MakeId(0xFFFFFFFF, kMaxGeneration) <= (uint64_t{1} << 53) - 1);
}

TEST(table_finds_nothing_by_an_id_that_names_nothing) {
  ExecutorTable table(100);
  uint32_t index = table.Add();
  CHECK(table.Find(table.IdOf(index)) != nullptr);
  CHECK(table.Find(0) == nullptr);
  CHECK(table.Find(MakeId(0, 1)) == nullptr);
  CHECK(table.Find(MakeId(index, 0)) == nullptr);
  CHECK(table.Find(MakeId(index, 2)) == nullptr);
  CHECK(table.Find(MakeId(index + 1, 1)) == nullptr);
  CHECK(table.Find(MakeId(0xFFFFFFFF, 1)) == nullptr);
  CHECK(table.Find(MakeId(index, 1) | uint64_t{1} << 63) == nullptr);
}

TEST(table_ids_are_stale_once_the_executor_is_gone) {
  ExecutorTable table(100);
  uint32_t index = table.Add();
  ExecutorId id = table.IdOf(index);
  table[index].SetState(ExecutorState::kFrozen);
  CHECK(table.Find(id) != nullptr);
  table[index].SetState(ExecutorState::kRetired);  // freed, its memory waits
  CHECK(table.Find(id) == nullptr);
  table.Recycle(index);
  CHECK(table.Find(id) == nullptr);
  CHECK_EQ(table.Add(), index);
  CHECK(table.Find(id) == nullptr);
  CHECK_EQ(table.IdOf(index), id + (uint64_t{1} << 32));
  CHECK(table.Find(table.IdOf(index)) != nullptr);
}

TEST(table_a_recycled_record_is_blank) {
  ExecutorTable table(100);
  uint32_t index = table.Add();
  Executor& executor = table[index];
  executor.entry = 1;
  executor.code_span = executor.data_span = executor.state_span = 2;
  executor.code_bytes = executor.data_bytes = executor.state_bytes = executor.checksum = 3;
  executor.inbound = executor.outbound = 4;
  executor.movable = executor.marked = 1;
  executor.align_log2 = 5;
  executor.SetData(true, 5);
  executor.SetTrace(true);
  CHECK(executor.apart() && executor.IsTrace());
  CHECK_EQ(executor.data_align_log2(), 5u);
  CHECK_EQ(executor.Generation(), 1u);
  table.NotesOf(index).name = "name";
  CHECK(table.SetKept(executor, std::vector<uint8_t>{1, 2, 3}).ok());
  table.Recycle(index);
  CHECK_EQ(table.Add(), index);
  CHECK(executor.State() == ExecutorState::kWritable);
  CHECK_EQ(executor.entry.load(), 0);
  CHECK_EQ(executor.code_span + executor.data_span + executor.state_span, 0);
  CHECK_EQ(executor.code_bytes + executor.data_bytes + executor.state_bytes + executor.checksum, 0);
  CHECK_EQ(executor.inbound + executor.outbound + executor.kept_bytes, 0);
  CHECK_EQ(executor.movable + executor.marked + executor.has_notes, 0);
  CHECK_EQ(executor.align_log2 + executor.data_align_log2(), 0u);
  CHECK(!executor.apart() && !executor.IsTrace());
  CHECK_EQ(executor.Generation(), 2u);
  CHECK(table.FindNotes(index) == nullptr);
}

TEST(table_an_exhausted_index_is_never_used_again) {
  ExecutorTable table(100);
  uint32_t index = table.Add();
  table[index].generation_and_kind = kMaxGeneration - 1;
  table.Recycle(index);
  CHECK_EQ(table.Add(), index);
  ExecutorId last = table.IdOf(index);
  CHECK_EQ(GenerationOf(last), kMaxGeneration);
  CHECK(table.Find(last) != nullptr);
  table.Recycle(index);
  CHECK(table.Find(last) == nullptr);
  std::set<ExecutorId> given = {last};
  for (int i = 0; i < 50; i++) {
    uint32_t other = table.Add();
    CHECK(other != index);
    CHECK(given.insert(table.IdOf(other)).second);
    if (i % 2 == 0) table.Recycle(other);
  }
}

TEST(table_notes_exist_only_where_they_were_asked_for) {
  ExecutorTable table(100);
  uint32_t with = table.Add(), without = table.Add();
  CHECK(table.FindNotes(with) == nullptr);
  table.NotesOf(with).name = "loop";
  table.NotesOf(with).entries = {0, 8};
  CHECK(table.FindNotes(with) != nullptr && table.FindNotes(with)->name == "loop");
  CHECK_EQ(table.FindNotes(with)->entries.size(), 2);
  CHECK_EQ(table[with].has_notes, 1);
  CHECK(table.FindNotes(without) == nullptr);
}

TEST(table_keeps_short_relocs_inside_and_long_ones_on_the_heap) {
  ExecutorTable table(100);
  Executor& executor = table[table.Add()];
  for (size_t size : {0, 1, 8, 9, 100, 8, 9, 0}) {
    std::vector<uint8_t> packed(size);
    for (size_t i = 0; i < size; i++) packed[i] = static_cast<uint8_t>(size + i);
    CHECK(table.SetKept(executor, packed).ok());
    CHECK_EQ(executor.kept_bytes, size);
    CHECK(std::vector<uint8_t>(executor.kept(), executor.kept() + size) == packed);
    bool inside = executor.kept() >= reinterpret_cast<uint8_t*>(&executor) &&
                  executor.kept() < reinterpret_cast<uint8_t*>(&executor + 1);
    CHECK_EQ(inside, size <= 8);
    CHECK_EQ(table.kept_heap_bytes(), size <= 8 ? 0 : size);
  }
  CHECK(table.SetKept(executor, std::vector<uint8_t>(20)).ok());
  table.Recycle(1);
  CHECK_EQ(table.kept_heap_bytes(), 0);
}

TEST(table_records_never_move) {
  ExecutorTable table(10000);
  uint32_t first = table.Add();
  Executor* at = &table[first];
  for (int i = 0; i < 9000; i++) table.Add();
  CHECK(&table[first] == at);
  CHECK_EQ(table.size(), 9002);
  CHECK_EQ(reinterpret_cast<uintptr_t>(at) % 64, 0);  // a cache line each, not two halves
}

TEST(chunked_array_ends_at_its_limit) {
  ChunkedArray<uint64_t, 64> array(200);
  uint32_t last = 0, count = 0;
  while (uint32_t index = array.Add()) {
    CHECK_EQ(index, last + 1);
    last = index;
    count++;
    array[index] = index;
  }
  CHECK(count >= 200 && count < 200 + 2 * 64);
  CHECK_EQ(array.Add(), 0);
  for (uint32_t i = 1; i <= last; i++) CHECK_EQ(array[i], i);
}

// A thread that was told of an index reads its element while the array grows, as machine code's callers do.
TEST(chunked_array_is_read_while_it_grows) {
  struct Element {
    uint32_t value = 7;
  };
  ChunkedArray<Element, 64> array(100000);
  std::atomic<uint32_t> told{0};
  std::atomic<uint64_t> wrong{0};
  std::thread reader([&] {
    uint32_t index = 0;
    while (index != 50000) {
      index = told.load(std::memory_order_relaxed);  // the chunk's own release must be enough
      if (index != 0 && array[index].value != 7) wrong++;
    }
  });
  for (uint32_t i = 1; i <= 50000; i++) told.store(array.Add(), std::memory_order_relaxed);
  reader.join();
  CHECK_EQ(wrong.load(), 0);
}

TEST(kept_relocs_unpack_to_what_was_packed) {
  std::mt19937 random(3);
  for (int round = 0; round < 200; round++) {
    std::vector<KeptReloc> relocs;
    KeptRelocWriter writer;
    writer.Begin(4000);
    uint32_t site = 0;
    for (uint32_t i = random() % 20; i > 0; i--) {
      site += random() % 8 == 0 ? random() % (1u << 28) : random() % 40;
      if (site > 0x7FFFFFFF) break;
      KeptReloc reloc{site, static_cast<arch::FieldClass>(random() % (1u << arch::kFieldClassBits)),
                      static_cast<Anchor>(random() % kAnchors)};
      uint32_t field_bytes = arch::FieldOf(reloc.field).bytes;
      reloc.rest = random() & ((1u << arch::FieldOf(reloc.field).rest_bits) - 1);
      // Some in rows.
      uint32_t stride = field_bytes + random() % 20;
      for (uint32_t more = random() % 3 == 0 ? random() % 200 : 1; more > 0; more--, reloc.site += stride) {
        relocs.push_back(reloc);
        writer.Add(reloc);
        site = reloc.site + field_bytes;
      }
    }
    writer.End();
    CHECK_EQ(writer.count(), relocs.size());
    size_t at = 0;
    ForEachKept(writer.packed().data(), static_cast<uint32_t>(writer.packed().size()), [&](const KeptReloc& kept) {
      CHECK(at < relocs.size() && kept.site == relocs[at].site && kept.field == relocs[at].field &&
            kept.anchor == relocs[at].anchor && kept.rest == relocs[at].rest);
      at++;
    });
    CHECK_EQ(at, relocs.size());
  }
}

TEST(kept_relocs_take_few_bytes) {
  KeptRelocWriter writer;
  auto pack = [&](uint32_t count, auto site_of, Anchor anchor) {
    writer.Begin(count);
    for (uint32_t i = 0; i < count; i++) writer.Add({site_of(i), arch::FieldClass{0}, anchor});
    writer.End();
    CHECK_EQ(writer.count(), count);
    return writer.packed().size();
  };
  CHECK_EQ(pack(
               10, [](uint32_t i) { return 4 + 20 * i + i % 2; }, Anchor::kFixed),
           10);
  CHECK_EQ(pack(
               10, [](uint32_t i) { return 2000 + 3000 * i + i % 2; }, Anchor::kState),
           20);
  // The first, the second, and how many more.
  CHECK_EQ(pack(
               31, [](uint32_t i) { return 14 * i; }, Anchor::kState),
           3);
  CHECK_EQ(pack(
               0, [](uint32_t i) { return i; }, Anchor::kState),
           0);
}
