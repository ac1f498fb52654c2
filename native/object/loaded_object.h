// A relocatable object in memory: from its bytes to executors in an arena.
//
// Read makes units of the bytes, which nobody needs any more then. The host answers for the symbols that the object
// asks for, and Resolve looks for the others in the process. From then on the object does not change: any thread may
// install it, any number of times, and each time it has state of its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/arena.h"
#include "object/install_exits.h"
#include "object/object_units.h"

namespace jit_arena {

// What a symbol refers to: an address, or a place in an executor of the arena that the object will be installed in.
struct SymbolTarget {
  TargetKind kind = TargetKind::kAddress;  // or kExecutor
  uint64_t target = 0;                     // the address, or the id
  Section section = Section::kCode;        // of the executor
  uint32_t offset = 0;                     // in the section
};

// A global symbol: one that the object defines, or one that it needs.
struct LoadedSymbol {
  std::string_view name;                  // zero-terminated
  bool weak = false;                      // of those that it needs: 0 when nobody has it
  const ObjectExport* defined = nullptr;  // null: needed
};

struct ObjectInstall {
  // For all executors, whatever the object looks like. True promises that no address of the object's code, data or
  // state outlives the call in which it was taken.
  std::optional<bool> movable{};
  bool constructors = false;               // the caller will call them
  std::optional<std::string_view> name{};  // of all executors; none: each has its unit's
};

class LoadedObject {
 public:
  // ERR_ARENA_OBJECT, _OBJECT_UNSUPPORTED, _RELOC_KIND.
  static Result<std::unique_ptr<LoadedObject>> Read(const uint8_t* bytes, size_t size);

  // What Answer and Resolve are about; its names are zero-terminated.
  const std::vector<AskedSymbol>& asked() const { return units_.asked; }
  void Answer(uint32_t asked, const SymbolTarget& target);
  // Once, behind the last answer. ERR_ARENA_SYMBOL names what neither the host nor the process has.
  Status Resolve();

  // What it takes of memory, about.
  size_t kept_bytes() const;
  size_t executor_count() const { return units_.units.size(); }
  // Why not all of them are movable, in words.
  const std::vector<ImmovableReason>& reasons() const { return units_.reasons; }
  // What the object defines, in the order of its symbols, then what it needs.
  size_t symbol_count() const { return units_.exports.size() + needed_.size(); }
  LoadedSymbol Symbol(size_t i) const;
  // ERR_ARENA_SYMBOL, with some names that it does define.
  Result<const ObjectExport*> Find(std::string_view name) const;

  // All of its executors, or none; `ids` receives executor_count() ids. ERR_ARENA_MOVABLE when it takes the address of
  // an executor of another object that can move, without the promise to keep none, or promises it and registers calls;
  // ERR_ARENA_OBJECT_UNSUPPORTED when nobody would call its constructors and destructors; and as Arena::Install.
  Status Install(Arena& arena, const ObjectInstall& how, ExecutorId* ids, const PinSlot* self) const;
  // Ends all of them together: as Arena::Free. Whoever ends them has called what TakeEndCall gives.
  Status Free(Arena& arena, const ExecutorId* ids, const PinSlot* self) const;

  // Machine code is called by whoever has a way to do that, one function after the other, each under a pin under which
  // it was asked for. First resolvers, whose results go back to SetResolved: ERR_ARENA_SYMBOL for 0. Then, when the
  // install was told so, constructors, with the arguments of main: 0, and two empty lists.
  size_t resolver_count() const { return units_.ifuncs.size(); }
  uint64_t Resolver(Arena& arena, const ExecutorId* ids, size_t i) const;
  Status SetResolved(Arena& arena, const ExecutorId* ids, size_t i, uint64_t function) const;
  size_t constructor_count() const { return units_.constructors.size(); }
  uint64_t Constructor(Arena& arena, const ExecutorId* ids, size_t i) const;
  // What is next at the end of an install, once: what was registered last, then destructors. None at the end.
  std::optional<RegisteredCall> TakeEndCall(Arena& arena, const ExecutorId* ids) const;

 private:
  struct Answered {
    bool given = false;
    SymbolTarget target;
  };

  explicit LoadedObject(ObjectUnits units);
  void KeepNames();
  Status MakeFrames();
  // The reloc as this install has it.
  Status SpecOf(const UnitReloc& reloc, Arena& arena, bool promised, std::vector<bool>& stays, RelocSpec* spec) const;
  Status CheckStays(uint32_t asked, Arena& arena) const;
  Status CheckCalls(const ObjectInstall& how) const;
  uint64_t InstallNumber(Arena& arena, const ExecutorId* ids) const;
  uint64_t AddressOf(const CalledEntry& called, Arena& arena, const ExecutorId* ids) const;

  ObjectUnits units_;
  std::string names_;              // that the views of units_ are of
  bool registers_calls_ = false;   // with the loader's __cxa_atexit
  std::vector<Answered> answers_;  // by asked()
  std::vector<uint32_t> by_name_;  // exports, sorted by their names
  std::vector<uint32_t> needed_;   // asked() without those that the object defines
  // By unit, once the names are answered: null for one without. Empty where the unwinder cannot be told.
  std::vector<std::shared_ptr<const FrameTable>> frames_;
};

}  // namespace jit_arena
