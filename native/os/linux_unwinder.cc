// Linux: libgcc_s, the unwinder of the process's exceptions, when it has any.
#include <cxxabi.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <exception>
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

// Asks the unwinder itself, since nothing tells its version. From gcc 13 on it ignores the second of two tables for the
// same addresses, and aborts when the second is taken back.
bool TakesOverlaps(RegisterTables to_register, DeregisterTables to_deregister, FindTable find) {
  // None of them ends: an unwinder that ignored the second may have kept something of it.
  static uint8_t function[16];
  static auto* first = new Probe(function);
  static auto* second = new Probe(function);
  for (Probe* probe : {first, second}) to_register(probe->table, probe->room);
  to_deregister(first->table);
  void* bases[3];
  if (find(function + 8, bases) == nullptr) return false;
  to_deregister(second->table);
  return true;
}

bool FindFunctions() {
  auto one = Find<RegisterTables>("__register_frame_info");
  auto list = Find<RegisterTables>("__register_frame_info_table");
  auto end = Find<DeregisterTables>("__deregister_frame_info");
  auto find = Find<FindTable>("_Unwind_Find_FDE");
  if (one == nullptr || end == nullptr) return false;
  register_table.store(one, std::memory_order_relaxed);
  deregister.store(end, std::memory_order_relaxed);
  if (list != nullptr && find != nullptr && TakesOverlaps(one, end, find))
    register_list.store(list, std::memory_order_relaxed);
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

Status StatusOfException() {
  const std::type_info* type = abi::__cxa_current_exception_type();
  if (type == nullptr) throw;
  char* name = abi::__cxa_demangle(type->name(), nullptr, nullptr, nullptr);
  const std::string shown = name != nullptr ? name : type->name();
  std::free(name);
  auto status = [&](const char* words) {
    return Error{ErrorCode::kException,
                 Format("the machine code threw %s%s%s, and nothing in it caught that: catch it there, or compile the "
                        "code without exceptions",
                        shown.c_str(), *words != 0 ? ": " : "", words)};
  };
  try {
    throw;
  } catch (const std::exception& exception) {
    return status(exception.what());
  } catch (...) {
    return status("");
  }
}

}  // namespace jit_arena::os
