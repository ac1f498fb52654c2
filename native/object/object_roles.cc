// Section headers: System V gABI, chapter 4.
#include "object/object_roles.h"

#include <utility>

#include "object/object_calls.h"

namespace jit_arena {
namespace {

bool IsIgnoredName(std::string_view name) {
  return IsOrIsUnder(name, ".eh_frame") || HoldsHandlers(name) || IsOrIsUnder(name, ".note") ||
         IsOrIsUnder(name, ".comment") || IsOrIsUnder(name, ".stack_sizes") || StartsWith(name, ".debug_") ||
         StartsWith(name, ".llvm");
}

bool MayHaveCalls(const SectionHeader& header) {
  return header.type == kElfProgBits || header.type == kElfInitArray || header.type == kElfFiniArray;
}

// Code and addresses that the process itself would run, before main and after it.
bool IsRunByProcess(const SectionHeader& header, std::string_view name, ReadFor read_for) {
  if (HasCalls(name)) return read_for == ReadFor::kStencils || !MayHaveCalls(header);
  return header.type == kElfInitArray || header.type == kElfFiniArray || header.type == kElfPreinitArray ||
         IsOrIsUnder(name, ".preinit_array") || name == ".init" || name == ".fini";
}

// The types whose meaning is known here. Any other may hold relocs of a section that is loaded, as SHT_CREL does, and
// code without its relocs is wrong without a word.
bool IsKnownType(uint32_t type) {
  switch (type) {
    case kElfNull:
    case kElfProgBits:
    case kElfSymTab:
    case kElfStrTab:
    case kElfRela:
    case kElfNote:
    case kElfNoBits:
    case kElfRel:
    case kElfInitArray:
    case kElfFiniArray:
    case kElfPreinitArray:
    case kElfGroup:
    case kElfSymTabIndexes:
    case kElfGnuAttributes:
      return true;
    default:
      return type == kObjectUnwindSection || (kElfLlvmFirst <= type && type <= kElfLlvmLast);
  }
}

}  // namespace

std::string NamedSection(uint32_t index, std::string_view name) {
  name = name.substr(0, 80);
  return Format("section %u '%.*s'", index, static_cast<int>(name.size()), name.data());
}

Result<ObjectRole> RoleOf(const SectionHeader& header, uint32_t index, std::string_view name, ReadFor read_for) {
  auto named = [&] { return NamedSection(index, name); };
  auto unsupported = [](std::string message) -> Result<ObjectRole> {
    return Error{ErrorCode::kObjectUnsupported, std::move(message)};
  };
  if (header.size != 0 && !IsKnownType(header.type))
    return unsupported(Format("%s has the unknown type %#x, and may hold relocs or something else that is needed",
                              named().c_str(), header.type));
  if (header.size != 0 && header.type != kElfNull && IsRunByProcess(header, name, read_for))
    return unsupported(named() +
                       " has constructors or destructors, which nobody would run: export a function "
                       "and call it");
  if (header.size != 0 && HasCalls(name)) return ObjectRole::kCalls;
  bool has_handlers = header.size != 0 && header.type == kElfProgBits && HoldsHandlers(name);
  if (has_handlers && read_for == ReadFor::kStencils)
    return unsupported(named() +
                       " says where exceptions are handled, and the unwinder would not find it: compile with "
                       "-fno-exceptions, or catch outside of the object");
  if ((header.flags & kElfAlloc) == 0 || header.type == kElfNull || header.type == kElfNote ||
      header.type == kObjectUnwindSection || (IsIgnoredName(name) && !has_handlers))
    return ObjectRole::kIgnored;
  if ((header.flags & kElfThreadLocal) != 0 && header.size != 0)
    return unsupported(named() + " has thread-local variables: pass a pointer to the thread's data instead");
  if (header.type != kElfProgBits && header.type != kElfNoBits)
    return header.size == 0 ? Result<ObjectRole>(ObjectRole::kIgnored)
                            : unsupported(Format("%s is to be loaded and has the type %#x, which is for something else",
                                                 named().c_str(), header.type));
  if ((header.flags & kElfCompressed) != 0) return unsupported(named() + " is to be loaded and compressed");
  bool executable = (header.flags & kElfExecute) != 0;
  bool writable = (header.flags & kElfWrite) != 0;
  if (executable && writable) return unsupported(named() + " is to be writable and executable");
  if (executable && header.type == kElfNoBits) return Error{ErrorCode::kObject, named() + " is code without bytes"};
  // Written only while it is relocated, which here is before anything runs.
  bool relocated_only = IsOrIsUnder(name, ".data.rel.ro") || IsOrIsUnder(name, ".ldata.rel.ro");
  return executable ? ObjectRole::kCode : writable && !relocated_only ? ObjectRole::kState : ObjectRole::kData;
}

}  // namespace jit_arena
