// The table of handles alone: generations, what is told of handles that are no more, and threads that use one table.
#include "capi/handles.h"

#include <memory>
#include <set>
#include <thread>
#include <vector>

#include "test.h"

using namespace jit_arena::capi;

namespace {

struct Cell : HandleSlot {
  std::atomic<uint64_t> content{0};
};

template <class Table>
uint64_t Make(Table& table, uint64_t content = 0) {
  Cell* cell = table.Take();
  if (cell == nullptr) return 0;
  cell->content.store(content, std::memory_order_relaxed);
  return table.Give(*cell);
}

template <class Table>
void End(Table& table, uint64_t handle) {
  Cell* cell = table.Find(handle);
  CHECK(cell != nullptr);
  if (cell == nullptr) return;
  table.End(*cell);
  if (table.LetGo(*cell)) table.PutBack(*cell);
}

}  // namespace

TEST(a_handle_names_its_slot_until_it_ends) {
  static HandleTable<Cell> table;
  uint64_t first = Make(table, 11), second = Make(table, 22);
  CHECK(first != 0 && second != 0 && first != second);
  CHECK_EQ(table.Find(first)->content.load(), 11u);
  CHECK_EQ(table.Find(second)->content.load(), 22u);
  CHECK(!table.HasEnded(first));
  End(table, first);
  CHECK(table.Find(first) == nullptr);
  CHECK(table.Hold(first) == nullptr);
  CHECK(table.HasEnded(first));
  CHECK_EQ(table.Find(second)->content.load(), 22u);
}

TEST(a_slot_that_is_given_again_has_another_handle) {
  static HandleTable<Cell> table;
  std::set<uint64_t> all;
  Cell* slot = nullptr;
  for (int i = 0; i < 1000; i++) {
    uint64_t handle = Make(table);
    if (slot == nullptr) slot = table.Find(handle);
    CHECK(table.Find(handle) == slot);
    for (uint64_t old : all) CHECK(table.Find(old) == nullptr && table.HasEnded(old));
    CHECK(all.insert(handle).second);
    End(table, handle);
  }
}

TEST(numbers_that_were_never_given_name_nothing) {
  static HandleTable<Cell> table;
  uint64_t handle = Make(table);
  uint64_t ended = Make(table);
  End(table, ended);
  int local = 0;
  auto heap = std::make_unique<int>();
  const uint64_t one = uint64_t{1} << 32;
  // Null, small numbers, addresses, a generation that comes later, one between two, the slot that is none, a slot
  // behind the last one, and one behind the end of the table.
  for (uint64_t number : {uint64_t{0}, uint64_t{1}, uint64_t{0x1000}, reinterpret_cast<uint64_t>(&local),
                          reinterpret_cast<uint64_t>(heap.get()), handle + 2 * one, handle + one, ended + one,
                          ended + 2 * one, one, one + 60, one + 0xFFFFFFFF, ~uint64_t{0}}) {
    CHECK(table.Find(number) == nullptr);
    CHECK(table.Hold(number) == nullptr);
    CHECK(!table.HasEnded(number));
  }
}

TEST(who_holds_a_slot_keeps_it_from_being_given_again) {
  static HandleTable<Cell> table;
  uint64_t handle = Make(table, 5);
  Cell* held = table.Hold(handle);
  table.HoldAgain(*held);
  table.End(*held);
  CHECK(!table.LetGo(*held));
  CHECK(table.Hold(handle) == nullptr);
  uint64_t next = Make(table, 6);
  CHECK(table.Find(next) != held);
  CHECK_EQ(held->content.load(), 5u);
  CHECK(!table.LetGo(*held));
  CHECK(table.LetGo(*held));
  table.PutBack(*held);
  CHECK(table.Find(Make(table, 7)) == held);
}

TEST(a_slot_whose_generations_are_used_up_is_not_given_again) {
  static HandleTable<Cell, 4, 1, 6> table;  // generations 1, 3 and 5
  std::set<uint64_t> given;
  std::vector<uint64_t> living;
  for (int round = 0; round < 5; round++) {
    while (uint64_t handle = Make(table)) {
      CHECK(given.insert(handle).second);
      living.push_back(handle);
    }
    for (uint64_t handle : living) End(table, handle);
    living.clear();
  }
  CHECK_EQ(given.size(), 3u * 3);  // slots of the one chunk but the first, and their generations
  for (uint64_t handle : given) CHECK(table.HasEnded(handle) && table.Find(handle) == nullptr);
}

// Each thread makes and ends handles and looks at what the others have left. A slot that two threads got at once, or a
// handle that came to life again, would show another's content.
TEST(threads_make_and_end_handles_at_once) {
  static HandleTable<Cell> table;
  constexpr int kThreads = 4, kRounds = 20000;
  static std::atomic<uint64_t> left[kThreads];
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int me = 0; me < kThreads; me++)
    threads.emplace_back([&, me] {
      for (uint64_t round = 1; round <= kRounds; round++) {
        uint64_t content = round * kThreads + static_cast<uint64_t>(me);
        uint64_t handle = Make(table, content);
        Cell* cell = table.Hold(handle);
        wrong += cell == nullptr || cell->content.load(std::memory_order_relaxed) != content;
        left[me].store(handle, std::memory_order_release);
        if (uint64_t other = left[(me + 1) % kThreads].load(std::memory_order_acquire)) {
          if (Cell* seen = table.Hold(other)) {
            // Held: it is its maker's as long as that.
            wrong += seen->content.load(std::memory_order_relaxed) % kThreads != (me + 1u) % kThreads;
            if (table.LetGo(*seen)) table.PutBack(*seen);
          }
        }
        table.End(*cell);
        for (int i = 0; i < 2; i++)
          if (table.LetGo(*cell)) table.PutBack(*cell);
        wrong += table.Find(handle) != nullptr || !table.HasEnded(handle);
      }
    });
  for (std::thread& thread : threads) thread.join();
  CHECK_EQ(wrong.load(), 0);
  int slots = 0;
  table.ForEach([&](Cell& cell) {
    slots++;
    CHECK(!cell.given());
    CHECK_EQ(cell.holders(), 0u);
  });
  CHECK(slots >= 1 && slots <= 2 * kThreads);  // each had one of its own and held another's
}
