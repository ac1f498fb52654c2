// Linux: libgcc_s, the unwinder of the process's exceptions, when it has any.
#include <cxxabi.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <memory>
#include <string>
#include <typeinfo>

#include "base/bits.h"
#include "os/memory.h"
#include "os/unwinder.h"

namespace jit_arena::os {
namespace linux_unwinder {
namespace {

using RegisterTables = void (*)(const void* tables, void* room);
using DeregisterTables = void* (*)(const void* tables);
using FindTable = const void* (*)(const void* code, void** bases);

// Found once, and not by those who register: dlsym takes the loader's lock, and a thread may hold it that runs a
// library's constructor and waits for the caller's. Relaxed: they publish nothing but themselves.
constinit std::atomic<RegisterTables> register_table{nullptr};  // one
constinit std::atomic<RegisterTables> register_list{nullptr};   // null: what is registered may not overlap
constinit std::atomic<DeregisterTables> deregister{nullptr};

template <class Function>
Function Find(const char* name) {
  return reinterpret_cast<Function>(const_cast<void*>(FindSymbol(name)));
}

// A table that tells of one function of 16 bytes.
struct Probe {
  alignas(8) uint8_t table[56] = {
      20, 0,    0,  0, 0,  0, 0, 0, 1, 'z', 'R', 0,
      1,  0x78, 16, 1, 0,  0, 0, 0, 0, 0,   0,   0,  // what functions have in common
      24, 0,    0,  0, 28, 0, 0, 0,                  // and the function: its address, its size; then an end
  };
  void* room[16];

  explicit Probe(const uint8_t* function) {
    StoreAs<uint64_t>(table + 32, reinterpret_cast<uintptr_t>(function));
    StoreAs<uint64_t>(table + 40, 16);
  }
};

// Asks the unwinder itself, since nothing tells its version. There are some whose functions do nothing. From gcc 13 on
// the second of two tables for the same addresses is ignored, and taking it back aborts.
enum class Overlaps { kNothingFound, kIgnored, kTaken };

Overlaps TryOverlaps(RegisterTables to_register, DeregisterTables to_deregister, FindTable find) {
  // None of them ends: an unwinder that ignored the second may have kept something of it.
  static uint8_t function[16];
  static auto* first = new Probe(function);
  static auto* second = new Probe(function);
  auto is_found = [&] {
    void* bases[3];
    return find(function + 8, bases) != nullptr;
  };
  to_register(first->table, first->room);
  if (!is_found()) return Overlaps::kNothingFound;
  to_register(second->table, second->room);
  to_deregister(first->table);
  if (!is_found()) return Overlaps::kIgnored;
  to_deregister(second->table);
  return Overlaps::kTaken;
}

// The class of what is being handled. Itanium C++ ABI 2.2.1 (__cxa_exception, whose last member is the unwinder's
// header; what C++ has not thrown is found as if it were such a member) and 2.2.2.
uint64_t ClassOfHandled() {
  constexpr size_t kHeaderOffset = 80;
  return LoadAs<uint64_t>(*reinterpret_cast<const uint8_t* const*>(abi::__cxa_get_globals()) + kHeaderOffset);
}

// "GNUCC++" and 0, or 1 for what std::rethrow_exception has thrown.
bool IsCppClass(uint64_t exception_class) { return (exception_class & ~uint64_t{1}) == 0x474E5543432B2B00; }

bool FindFunctions() {
  auto one = Find<RegisterTables>("__register_frame_info");
  auto list = Find<RegisterTables>("__register_frame_info_table");
  auto end = Find<DeregisterTables>("__deregister_frame_info");
  auto find = Find<FindTable>("_Unwind_Find_FDE");
  if (one == nullptr || end == nullptr || find == nullptr) return false;
  Overlaps overlaps = TryOverlaps(one, end, find);
  if (overlaps == Overlaps::kNothingFound) return false;
  register_table.store(one, std::memory_order_relaxed);
  deregister.store(end, std::memory_order_relaxed);
  if (list != nullptr && overlaps == Overlaps::kTaken) register_list.store(list, std::memory_order_relaxed);
  return true;
}

}  // namespace
}  // namespace linux_unwinder

bool FindUnwinder() {
  static const bool found = linux_unwinder::FindFunctions();
  return found;
}

bool UnwinderTakesOverlaps() { return linux_unwinder::register_list.load(std::memory_order_relaxed) != nullptr; }

void Register(UnwinderList& list) {
  using namespace linux_unwinder;
  if (RegisterTables lists = register_list.load(std::memory_order_relaxed))
    lists(list.tables.get(), list.room);
  else
    register_table.load(std::memory_order_relaxed)(list.tables[0], list.room);
}

void Deregister(UnwinderList& list) {
  const void* begin = UnwinderTakesOverlaps() ? static_cast<const void*>(list.tables.get()) : list.tables[0];
  linux_unwinder::deregister.load(std::memory_order_relaxed)(begin);
}

// glibc's pthread_exit and pthread_cancel unwind by an exception without a class.
bool HandlesEndOfThread() noexcept { return linux_unwinder::ClassOfHandled() == 0; }

Status StatusOfException() noexcept {
  return OrOutOfMemory([]() -> Status {
    std::string what = "an exception of another language";
    if (linux_unwinder::IsCppClass(linux_unwinder::ClassOfHandled())) {
      const char* type = abi::__cxa_current_exception_type()->name();
      const std::unique_ptr<char, decltype(&std::free)> name(abi::__cxa_demangle(type, nullptr, nullptr, nullptr),
                                                             &std::free);
      what = name != nullptr ? name.get() : type;
      try {
        throw;
      } catch (const std::exception& exception) {
        if (const char* words = exception.what()) what.append(": ").append(words);
      } catch (...) {
      }
    }
    return Error{ErrorCode::kException,
                 "the machine code threw " + what +
                     ", and nothing in it caught that: catch it there, or compile the code without exceptions"};
  });
}

}  // namespace jit_arena::os
