// Objects: what a compiler made, read and resolved once, and installed in any arenas.
#include <memory>
#include <optional>
#include <string>

#include "capi/handle.h"
#include "object/loaded_object.h"
#include "os/unwinder.h"

using namespace jit_arena;
using namespace jit_arena::capi;

namespace {

struct Loaded : HandleSlot {
  std::unique_ptr<LoadedObject> object;
  std::optional<std::string> name;  // of its executors
};

constinit HandleTable<Loaded> objects;

void LetGo(Loaded& loaded) {
  if (!objects.LetGo(loaded)) return;
  loaded.object.reset();
  loaded.name.reset();
  objects.PutBack(loaded);
}

// One use of an object: it stays for as long, whoever unloads it meanwhile.
class ObjectUse {
 public:
  explicit ObjectUse(ja_object* handle) : loaded_(objects.Hold(NumberOf(handle))) {
    if (loaded_ != nullptr) return;
    if (handle == nullptr)
      refused_ = FailArgument("the object is null");
    else if (objects.HasEnded(NumberOf(handle)))
      refused_ = Fail(JA_ERR_ENDED, "the object has been unloaded");
    else
      refused_ = FailArgument("the object is none that ja_load_object has made");
  }
  ~ObjectUse() {
    if (loaded_ != nullptr) LetGo(*loaded_);
  }
  ObjectUse(const ObjectUse&) = delete;
  ObjectUse& operator=(const ObjectUse&) = delete;

  ja_status refused() const { return refused_; }
  const LoadedObject* operator->() const { return loaded_->object.get(); }
  const std::optional<std::string>& name() const { return loaded_->name; }

 private:
  Loaded* loaded_;
  ja_status refused_ = JA_OK;
};

ja_status TakePlace(const char* name, const ja_place& place, SymbolTarget* target) {
  if (place.executor == 0) {
    *target = {TargetKind::kAddress, place.address};
    return JA_OK;
  }
  if (place.section < JA_CODE || place.section > JA_STATE)
    return FailArgument(
        Format("the place of the symbol '%.80s' is in section %d, which does not exist", name, place.section));
  *target = {TargetKind::kExecutor, place.executor, static_cast<Section>(place.section), place.offset};
  return JA_OK;
}

ja_status AskHost(const ja_object_options& options, LoadedObject& object) {
  if (options.resolve == nullptr) return JA_OK;
  for (uint32_t i = 0; i < object.asked().size(); i++) {
    const AskedSymbol& asked = object.asked()[i];
    ja_place place = {0, JA_CODE, 0, 0};
    if (options.resolve(options.user, asked.name.data(), asked.weak, asked.defined, &place) == 0) continue;
    SymbolTarget target;
    if (ja_status failed = TakePlace(asked.name.data(), place, &target)) return failed;
    object.Answer(i, target);
  }
  return JA_OK;
}

ja_status CheckIds(const ObjectUse& use, const ja_executor* ids, size_t count) {
  if (ja_status failed = CheckList(ids, count, "ids")) return failed;
  if (count == use->executor_count()) return JA_OK;
  return FailArgument(
      Format("the count of ids is %zu, and the object has %zu executors", count, use->executor_count()));
}

// The calling thread's own slot, where it has one, so that its pin does not stand in its way; else one for the call.
// Never a loose pin: in a forked child the pins of other threads end, and loose ones stay.
class CallSlot {
 public:
  explicit CallSlot(const Call& call)
      : call_(call),
        place_(PlaceIn(call.arena())),
        slot_(place_ != nullptr ? place_->pin : call_->reclaimer().Attach()) {}
  ~CallSlot() {
    if (place_ == nullptr && slot_ != nullptr && call_->in_own_process()) call_->reclaimer().Detach(slot_);
  }
  CallSlot(const CallSlot&) = delete;
  CallSlot& operator=(const CallSlot&) = delete;

  bool ok() const { return slot_ != nullptr; }  // false: there is no memory for one
  Arena& arena() const { return *call_.operator->(); }

  // Calls what `find()` gives under a pin, as `call_code(address)`; nothing when that is 0. ERR_ARENA_EXCEPTION for
  // what the code throws out of itself; ERR_ARENA_FORKED.
  template <class Find, class CallCode>
  Status CallUnderPin(Find find, CallCode call_code) const {
    if (Status failed = arena().CheckProcess()) return failed;
    Pinned pinned(arena().reclaimer(), *slot_);
    const uint64_t function = find();
    return function == 0 ? Status::Ok() : os::CatchExceptions([&] { call_code(function); });
  }

 private:
  const Call& call_;
  Place* place_;
  PinSlot* slot_;
};

Status ResolveIfuncs(const CallSlot& slot, const ObjectUse& use, const ja_executor* ids) {
  Arena& in = slot.arena();
  for (size_t i = 0; i < use->resolver_count(); i++) {
    uint64_t resolved = 0;
    Status failed =
        slot.CallUnderPin([&] { return use->Resolver(in, ids, i); },
                          [&](uint64_t resolver) { resolved = reinterpret_cast<uint64_t (*)()>(resolver)(); });
    if (failed.ok()) failed = OrOutOfMemory([&] { return use->SetResolved(in, ids, i, resolved); });
    if (!failed.ok()) return failed;
  }
  return Status::Ok();
}

Status Construct(const CallSlot& slot, const ObjectUse& use, const ja_executor* ids) {
  for (size_t i = 0; i < use->constructor_count(); i++) {
    Status failed = slot.CallUnderPin([&] { return use->Constructor(slot.arena(), ids, i); },
                                      [&](uint64_t constructor) {
                                        char* none = nullptr;
                                        reinterpret_cast<void (*)(int, char**, char**)>(constructor)(0, &none, &none);
                                      });
    if (!failed.ok()) return failed;
  }
  return Status::Ok();
}

// What is to be called at the end, all of it, also behind a call that throws: the first failure is returned.
Status CallAtEnd(const CallSlot& slot, const ObjectUse& use, const ja_executor* ids) {
  Status first;
  std::optional<RegisteredCall> next;
  do {
    next.reset();
    Status failed = slot.CallUnderPin(
        [&] {
          next = use->TakeEndCall(slot.arena(), ids);
          return next ? next->function : 0;
        },
        [&](uint64_t function) {
          reinterpret_cast<void (*)(void*)>(function)(reinterpret_cast<void*>(next->argument));
        });
    if (first.ok()) first = std::move(failed);
  } while (next);
  return first;
}

void GiveSymbol(const LoadedSymbol& symbol, ja_symbol* to) {
  ja_symbol given = ja_symbol_init();
  given.name = symbol.name.data();
  given.weak = symbol.weak;
  given.entry = JA_NO_ENTRY;
  if (const ObjectExport* defined = symbol.defined) {
    given.defined = 1;
    given.size = defined->size;
    given.executor = defined->unit;
    given.section = static_cast<ja_section>(defined->section);
    given.offset = defined->offset;
    if (defined->entry != kNoIndex) given.entry = defined->entry;
  }
  GiveStruct(given, to);
}

}  // namespace

static_assert(JA_NO_ENTRY == kNoIndex);

ja_status ja_load_object(const void* bytes, size_t size, const ja_object_options* given, ja_object** object) try {
  ja_object_options options = ja_object_options_init();
  if (given != nullptr)
    if (ja_status failed = TakeStruct(given, "ja_object_options", &options)) return failed;
  if (object == nullptr) return FailArgument("the place for the object is null");
  if (bytes == nullptr && size != 0) return FailArgument(Format("the bytes are null and their size is %zu", size));
  Result<std::unique_ptr<LoadedObject>> read = LoadedObject::Read(static_cast<const uint8_t*>(bytes), size);
  if (!read.ok()) return Finish(read.status());
  if (ja_status failed = AskHost(options, *read.value())) return failed;
  if (Status failed = read.value()->Resolve()) return Finish(failed);
  std::optional<std::string> name;
  if (options.name != nullptr) name = options.name;
  Loaded* loaded = objects.Take();
  if (loaded == nullptr) return FailMemory("an object");
  loaded->object = std::move(read.value());
  loaded->name = std::move(name);
  *object = reinterpret_cast<ja_object*>(objects.Give(*loaded));
  return JA_OK;
} catch (const std::bad_alloc&) {
  return FailMemory();
}

ja_status ja_unload_object(ja_object* object) {
  ObjectUse use(object);
  if (use.refused()) return use.refused();
  Loaded* ended = objects.EndOnce(NumberOf(object));
  if (ended == nullptr) return Fail(JA_ERR_ENDED, "the object has been unloaded");
  LetGo(*ended);
  return JA_OK;
}

ja_status ja_describe_object(ja_object* object, ja_object_info* info) {
  ObjectUse use(object);
  if (use.refused()) return use.refused();
  if (ja_status failed = CheckStruct(info, "ja_object_info")) return failed;
  ja_object_info described = ja_object_info_init();
  described.executors = use->executor_count();
  described.symbols = use->symbol_count();
  described.reasons = use->reasons().size();
  GiveStruct(described, info);
  return JA_OK;
}

ja_status ja_object_symbol(ja_object* object, size_t index, ja_symbol* symbol) {
  ObjectUse use(object);
  if (use.refused()) return use.refused();
  if (ja_status failed = CheckStruct(symbol, "ja_symbol")) return failed;
  if (index >= use->symbol_count())
    return FailArgument(Format("there is no symbol %zu: the object has %zu", index, use->symbol_count()));
  GiveSymbol(use->Symbol(index), symbol);
  return JA_OK;
}

ja_status ja_find_symbol(ja_object* object, const char* name, ja_symbol* symbol) {
  ObjectUse use(object);
  if (use.refused()) return use.refused();
  if (name == nullptr) return FailArgument("the name is null");
  if (ja_status failed = CheckStruct(symbol, "ja_symbol")) return failed;
  Result<const ObjectExport*> found = use->Find(name);
  if (!found.ok()) return Finish(found.status());
  GiveSymbol({found.value()->name, found.value()->weak, found.value()}, symbol);
  return JA_OK;
}

ja_status ja_object_reason(ja_object* object, size_t index, uint32_t* executor, const char** reason) {
  ObjectUse use(object);
  if (use.refused()) return use.refused();
  if (reason == nullptr) return FailArgument("the place for the reason is null");
  if (index >= use->reasons().size())
    return FailArgument(Format("there is no reason %zu: the object has %zu", index, use->reasons().size()));
  const ImmovableReason& found = use->reasons()[index];
  *reason = found.text.c_str();
  if (executor != nullptr) *executor = found.unit;
  return JA_OK;
}

ja_status ja_install_object(ja_arena* arena, ja_object* object, const ja_install_options* given, ja_executor* ids,
                            size_t count) try {
  Call call(arena);
  if (call.refused()) return call.refused();
  ObjectUse use(object);
  if (use.refused()) return use.refused();
  ja_install_options options = ja_install_options_init();
  if (given != nullptr)
    if (ja_status failed = TakeStruct(given, "ja_install_options", &options)) return failed;
  if (ja_status failed = CheckChoice(options.movable, "movable")) return failed;
  if (ja_status failed = CheckChoice(options.constructors, "constructors")) return failed;
  if (ja_status failed = CheckIds(use, ids, count)) return failed;
  ObjectInstall how;
  if (options.movable != JA_DEFAULT) how.movable = options.movable == JA_YES;
  if (use.name()) how.name = *use.name();
  how.constructors = options.constructors == JA_YES;
  CallSlot slot(call);
  if (!slot.ok()) return FailMemory();
  Arena& in = *call.operator->();
  if (Status failed = use->Install(in, how, ids, call.self())) return Finish(failed);
  // Also when a constructor ends its thread.
  struct Undo {
    const Call& call;
    const ObjectUse& use;
    const ja_executor* ids;
    bool done = false;
    ~Undo() {
      if (!done) use->Free(*call.operator->(), ids, call.self()).Ignore();  // the first failure is told
    }
  } undo{call, use, ids};
  Status failed = ResolveIfuncs(slot, use, ids);
  if (failed.ok() && how.constructors) {
    failed = Construct(slot, use, ids);
    if (!failed.ok()) CallAtEnd(slot, use, ids).Ignore();  // what the first have made
  }
  undo.done = failed.ok();
  return Finish(failed);
} catch (const std::bad_alloc&) {
  return FailMemory();
}

ja_status ja_free_object(ja_arena* arena, ja_object* object, const ja_executor* ids, size_t count) try {
  Call call(arena);
  if (call.refused()) return call.refused();
  ObjectUse use(object);
  if (use.refused()) return use.refused();
  if (ja_status failed = CheckIds(use, ids, count)) return failed;
  CallSlot slot(call);
  if (!slot.ok()) return FailMemory();
  Status thrown = CallAtEnd(slot, use, ids);
  if (Status failed = use->Free(*call.operator->(), ids, call.self())) return Finish(failed);
  return Finish(thrown);
} catch (const std::bad_alloc&) {
  return FailMemory();
}
