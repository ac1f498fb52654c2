// Reading ELF: System V gABI, chapter 4 (object files); what the psABI adds is in arch/object_relocs.h.
#include "object/object_file.h"

#include <algorithm>
#include <cstring>
#include <initializer_list>

#include "base/bits.h"
#include "object/elf.h"
#include "object/object_handlers.h"
#include "object/object_ifuncs.h"
#include "object/object_limits.h"
#include "object/object_linked.h"
#include "object/object_roles.h"
#include "object/object_unwind.h"

namespace jit_arena {
namespace {

constexpr uint64_t kMaxObjectAlign = uint64_t{1} << 16;
constexpr size_t kMaxObjectNameBytes = 4096;

class ObjectReader {
 public:
  ObjectReader(const uint8_t* bytes, size_t size, ReadFor read_for) : bytes_(bytes), size_(size), read_for_(read_for) {}

  Status Read(ObjectFile* file) {
    if (Status failed = ReadHeader()) return failed;
    if (Status failed = ReadSections(file)) return failed;
    if (Status failed = ReadSymbols(file)) return failed;
    if (read_for_ == ReadFor::kExecutors)
      if (Status failed = FindUnwindSections(file)) return failed;
    if (Status failed = ReadRelocs(file)) return failed;
    AddIfuncStubs(file);
    if (Status failed = AddUnwindTable(file)) return failed;
    KeepTypesInSlots(file);
    if (HasHandlers(*file) && file->frames.entries.empty())
      return Unsupported(
          "'.gcc_except_table' says where exceptions are handled, and no '.eh_frame' of which functions");
    return Status::Ok();
  }

 private:
  static Status Malformed(std::string message) { return Error{ErrorCode::kObject, std::move(message)}; }
  static Status Unsupported(std::string message) { return Error{ErrorCode::kObjectUnsupported, std::move(message)}; }

  // True when `count` bytes from `offset` on are there.
  bool Has(uint64_t offset, uint64_t count) const { return offset <= size_ && count <= size_ - offset; }

  bool StartsWithOneOf(std::initializer_list<std::string_view> starts) const {
    std::string_view all(reinterpret_cast<const char*>(bytes_), size_);
    for (std::string_view start : starts)
      if (StartsWith(all, start)) return true;
    return false;
  }

  std::string Named(uint32_t index) const {
    return NamedSection(index, index < names_.size() ? names_[index] : std::string_view());
  }

  Status ReadHeader() {
    static constexpr uint8_t kMagic[] = {0x7F, 'E', 'L', 'F'};
    if (!Has(0, sizeof kMagic) || std::memcmp(bytes_, kMagic, sizeof kMagic) != 0) {
      if (StartsWithOneOf({"BC\xC0\xDE", "\xDE\xC0\x17\x0B"}))
        return Malformed("the bytes are LLVM bitcode and no machine code: compile without -flto");
      if (StartsWithOneOf({"!<arch>\n", "!<thin>\n"}))
        return Malformed("the bytes are an archive: load its members, one object each");
      return Malformed("the bytes are not an ELF object: they do not begin with 7F 'ELF'");
    }
    if (!Has(0, kElfHeaderBytes))
      return Malformed(Format("the object ends within its header: it has %zu bytes of %zu", size_, kElfHeaderBytes));
    if (bytes_[4] != 2 || bytes_[5] != 1)
      return Malformed("the object is not a 64-bit little-endian one (EI_CLASS, EI_DATA)");
    uint16_t type = LoadAs<uint16_t>(bytes_ + 16);
    uint16_t machine = LoadAs<uint16_t>(bytes_ + 18);
    if (type != 1)
      return Malformed(
          Format("the object's type is %u, and not 1, relocatable: make it with -c, without linking", type));
    if (machine != kObjectMachine)
      return Malformed(
          Format("the object is for machine %u, and this is %s, machine %u", machine, arch::kCpuName, kObjectMachine));

    uint64_t table = LoadAs<uint64_t>(bytes_ + 40);
    uint16_t entry_bytes = LoadAs<uint16_t>(bytes_ + 58);
    uint16_t count = LoadAs<uint16_t>(bytes_ + 60);
    uint16_t names = LoadAs<uint16_t>(bytes_ + 62);
    if (count == 0)
      return table == 0 ? Malformed("the object has no sections")
                        : Unsupported("the object has 65 280 sections or more: compile with fewer in one object");
    if (entry_bytes != kElfSectionHeaderBytes)
      return Malformed(Format("section headers of %u bytes, and not %zu", entry_bytes, kElfSectionHeaderBytes));
    if (!Has(table, uint64_t{count} * kElfSectionHeaderBytes))
      return Malformed(Format("the %u section headers at %#llx do not lie within the object's %zu bytes", count,
                              Wide(table), size_));
    headers_.resize(count);
    for (uint32_t i = 0; i < count; i++) {
      const uint8_t* at = bytes_ + table + i * kElfSectionHeaderBytes;
      headers_[i] = {LoadAs<uint32_t>(at),      LoadAs<uint32_t>(at + 4),  LoadAs<uint64_t>(at + 8),
                     LoadAs<uint64_t>(at + 24), LoadAs<uint64_t>(at + 32), LoadAs<uint32_t>(at + 40),
                     LoadAs<uint32_t>(at + 44), LoadAs<uint64_t>(at + 48), LoadAs<uint64_t>(at + 56)};
    }
    headers_[0] = {};  // the gABI reserves it
    if (names >= count) return Malformed(Format("the section names are said to be in section %u of %u", names, count));
    names_.resize(count);
    for (uint32_t i = 1; i < count; i++)
      if (Status failed = ReadString(names, headers_[i].name, &names_[i]))
        return Malformed(Format("the name of section %u: %s", i, failed.error().message.c_str()));
    return Status::Ok();
  }

  // The zero-terminated string at `offset` of a section.
  Status ReadString(uint32_t section, uint32_t offset, std::string_view* out) const {
    const SectionHeader& table = headers_[section];
    if (table.type == kElfNoBits || !Has(table.offset, table.size))
      return Malformed(Format("its string table, section %u, does not lie within the object", section));
    if (offset >= table.size) {
      if (offset != 0) return Malformed(Format("offset %u lies outside its string table, section %u", offset, section));
      *out = {};
      return Status::Ok();
    }
    const char* from = reinterpret_cast<const char*>(bytes_ + table.offset + offset);
    size_t most = std::min<uint64_t>(table.size - offset, kMaxObjectNameBytes + 1);
    const void* end = std::memchr(from, 0, most);
    if (end == nullptr)
      return Malformed(Format("the string at offset %u of section %u does not end%s", offset, section,
                              most > kMaxObjectNameBytes ? " within 4096 bytes" : ""));
    *out = {from, static_cast<size_t>(static_cast<const char*>(end) - from)};
    return Status::Ok();
  }

  Status ReadSections(ObjectFile* file) {
    file->sections.resize(headers_.size());
    uint64_t loaded = 0, from_file = 0, padding = 0;
    for (uint32_t i = 1; i < headers_.size(); i++) {
      const SectionHeader& header = headers_[i];
      ObjectSection& section = file->sections[i];
      section.name = names_[i];
      Result<ObjectRole> role = RoleOf(header, i, names_[i], read_for_);
      if (!role.ok()) return std::move(role.status());
      section.role = role.value();
      if (section.role == ObjectRole::kIgnored) continue;
      bool has_bytes = header.type != kElfNoBits;
      if (has_bytes && !Has(header.offset, header.size))
        return Malformed(Format("%s: its %llu bytes at %#llx do not lie within the object's %zu", Named(i).c_str(),
                                Wide(header.size), Wide(header.offset), size_));
      if (header.align > kMaxObjectAlign || (header.align != 0 && !IsPowerOfTwo(header.align)))
        return Malformed(Format("%s: the alignment %llu is not a power of two up to %llu", Named(i).c_str(),
                                Wide(header.align), Wide(kMaxObjectAlign)));
      section.align = static_cast<uint32_t>(std::max<uint64_t>(header.align, 1));
      if (header.size > kMaxObjectBytes)
        return Malformed(Format("%s: %llu bytes are more than any arena holds", Named(i).c_str(), Wide(header.size)));
      section.size = static_cast<uint32_t>(header.size);
      if (has_bytes && section.size != 0) section.bytes = bytes_ + header.offset;
      // Real sections do not share bytes. Lying ones could make a small file very large in memory.
      if (has_bytes) {
        from_file += header.size;
        padding += section.align;
      }
      loaded += AlignUp(header.size, section.align);
      if (from_file > size_) return Malformed("the sections are larger than the object: they share bytes");
      if (loaded > kMaxObjectBytes) return Malformed("the sections are larger than any arena");
      if (padding > MaxPadding(size_))
        return Malformed(
            Format("the alignments of the sections up to %s add up to more than %llu bytes, for an object "
                   "of %zu",
                   Named(i).c_str(), Wide(MaxPadding(size_)), size_));
    }
    return Status::Ok();
  }

  // The symbol table, whole and with names; symbol_table_ stays 0 when there is none.
  Status FindSymbolTable() {
    for (uint32_t i = 1; i < headers_.size(); i++) {
      if (headers_[i].type != kElfSymTab) continue;
      if (symbol_table_ != 0)
        return Malformed(Format("the object has two symbol tables, sections %u and %u", symbol_table_, i));
      symbol_table_ = i;
    }
    if (symbol_table_ == 0) return Status::Ok();
    const SectionHeader& table = headers_[symbol_table_];
    if (!Has(table.offset, table.size) || table.size % kElfSymbolBytes != 0)
      return Malformed("the symbol table does not lie within the object, or ends within a symbol");
    if (table.entry_size != kElfSymbolBytes)
      return Malformed(Format("symbols of %llu bytes, and not %zu", Wide(table.entry_size), kElfSymbolBytes));
    if (table.link == 0 || table.link >= headers_.size())
      return Malformed(Format("the symbols' names are said to be in section %u of %zu", table.link, headers_.size()));
    return Status::Ok();
  }

  // Puts a COMMON variable behind the others in the section that they make up. The value of such a symbol is its
  // alignment. `loaded`: bytes of the other sections.
  template <class Named>
  static Status PlaceCommon(Named named, uint64_t loaded, ObjectSection* common, ObjectSymbol* symbol) {
    if (symbol->value > kMaxObjectAlign || !IsPowerOfTwo(symbol->value))
      return Malformed(Format("%s: the alignment %llu is not a power of two up to %llu", named().c_str(),
                              Wide(symbol->value), Wide(kMaxObjectAlign)));
    uint64_t offset = AlignUp(common->size, symbol->value);
    if (symbol->size > kMaxObjectBytes || offset + symbol->size + loaded > kMaxObjectBytes)
      return Malformed(named() + " makes the sections larger than any arena");
    common->align = std::max(common->align, static_cast<uint32_t>(symbol->value));
    common->size = static_cast<uint32_t>(offset + symbol->size);
    symbol->value = offset;
    return Status::Ok();
  }

  Status ReadSymbols(ObjectFile* file) {
    file->symbols.resize(1);  // symbol 0, which every table has, stands for the absolute value 0
    if (Status failed = FindSymbolTable()) return failed;
    if (symbol_table_ == 0) return Status::Ok();
    const SectionHeader& table = headers_[symbol_table_];
    uint64_t count = table.size / kElfSymbolBytes;
    file->symbols.resize(std::max<uint64_t>(count, 1));
    // COMMON variables become one section more, .bss as a linker would make it.
    ObjectSection common;
    common.name = "COMMON";
    common.role = ObjectRole::kState;
    uint32_t common_index = static_cast<uint32_t>(file->sections.size());
    uint64_t loaded = 0, name_bytes = 0;
    for (const ObjectSection& section : file->sections) loaded += AlignUp(section.size, section.align);
    for (uint64_t i = 1; i < count; i++) {
      const uint8_t* at = bytes_ + table.offset + i * kElfSymbolBytes;
      ObjectSymbol& symbol = file->symbols[i];
      uint8_t type = at[4] & 0xF;
      uint8_t binding = at[4] >> 4;
      uint16_t index = LoadAs<uint16_t>(at + 6);
      symbol.value = LoadAs<uint64_t>(at + 8);
      symbol.size = LoadAs<uint64_t>(at + 16);
      // A unique definition, as gcc makes of inline variables, is a weak one that has one instance in the whole
      // process.
      symbol.weak = binding == kElfWeak || binding == kElfUnique;
      symbol.global = binding == kElfGlobal || binding == kElfWeak || binding == kElfUnique;
      symbol.is_section = type == kElfSectionSymbol;
      auto named = [&] {
        std::string_view name = symbol.name.substr(0, 80);
        return Format("symbol %llu '%.*s'", Wide(i), static_cast<int>(name.size()), name.data());
      };
      if (Status failed = ReadString(table.link, LoadAs<uint32_t>(at), &symbol.name))
        return Malformed(Format("the name of symbol %llu: %s", Wide(i), failed.error().message.c_str()));
      if (symbol.global || index == kElfUndefined) name_bytes += symbol.name.size();
      if (name_bytes > MaxNameBytes(size_))
        return Malformed(
            Format("the names of the global symbols up to %llu add up to %llu bytes, more than %llu times "
                   "the object's %zu: they share bytes",
                   Wide(i), Wide(name_bytes), Wide(kMaxNameTimes), size_));
      if (binding != kElfLocal && !symbol.global)
        return Malformed(Format("%s has the unknown binding %u", named().c_str(), binding));
      if (type == kElfIfunc && read_for_ == ReadFor::kStencils)
        return Unsupported(named() + " is an IFUNC, whose resolver nobody would run: choose before loading");
      if (type == kElfTls && (index != kElfUndefined || symbol.global))
        return Unsupported(named() + " is thread-local: pass a pointer to the thread's data instead");
      if (index == kElfUndefined) {
        if (symbol.name.empty()) return Malformed(named() + " is undefined and has no name");
        continue;
      }
      if (index == kElfCommon || index == kObjectLargeCommon) {
        if (Status failed = PlaceCommon(named, loaded, &common, &symbol)) return failed;
        symbol.place = ObjectSymbol::Place::kSection;
        symbol.section = common_index;
        continue;
      }
      if (index == kElfAbsolute) {
        symbol.place = ObjectSymbol::Place::kAbsolute;
        continue;
      }
      if (index >= kElfReserved || index >= headers_.size())
        return Malformed(Format("%s is said to be in section %u of %zu", named().c_str(), index, headers_.size()));
      symbol.place = ObjectSymbol::Place::kSection;
      symbol.section = index;
      if (symbol.is_section) symbol.name = names_[index];
      const ObjectSection& section = file->sections[index];
      if (!IsLoaded(section.role)) continue;
      symbol.is_function = type == kElfFunction;
      symbol.is_ifunc = type == kElfIfunc;
      if (symbol.value > section.size)
        return Malformed(Format("%s at offset %llu lies outside %s of %u bytes", named().c_str(), Wide(symbol.value),
                                Named(index).c_str(), section.size));
    }
    if (common.align != 1 || common.size != 0) file->sections.push_back(common);
    if (Status failed = DefineSectionEnds(file, static_cast<uint32_t>(headers_.size()))) return failed;
    if (read_for_ == ReadFor::kExecutors) DefineDsoHandle(file);
    return RefuseSlimLto(*file);
  }

  static bool HasHandlers(const ObjectFile& file) {
    return std::any_of(file.sections.begin(), file.sections.end(), [](const ObjectSection& section) {
      return IsLoaded(section.role) && section.size != 0 && HoldsHandlers(section.name);
    });
  }

  // Functions that only throw: the ABI's, and those in which the C++ library throws for its templates
  // (std::__throw_out_of_range_fmt, std::rethrow_exception).
  static bool IsThrower(std::string_view name) {
    return StartsWith(name, "_Unwind_") || StartsWith(name, "__cxa_throw") || StartsWith(name, "__cxa_bad_") ||
           name == "__cxa_rethrow" ||
           (StartsWith(name, "_ZSt") && (name.find("__throw_") != name.npos || name.find("rethrow_") != name.npos));
  }

  static bool Throws(const ObjectFile& file) {
    return std::any_of(file.symbols.begin(), file.symbols.end(), [](const ObjectSymbol& symbol) {
      return symbol.place == ObjectSymbol::Place::kUndefined && IsThrower(symbol.name);
    });
  }

  Status FindUnwindSections(ObjectFile* file) const {
    file->frames.needed = HasHandlers(*file) || Throws(*file);
    uint64_t total = 0;
    for (uint32_t i = 1; i < headers_.size(); i++) {
      const SectionHeader& header = headers_[i];
      bool is_table = IsOrIsUnder(names_[i], ".eh_frame") &&
                      (header.type == kElfProgBits || header.type == kObjectUnwindSection) && header.size != 0;
      if (!is_table || file->sections[i].role != ObjectRole::kIgnored) continue;
      if (!Has(header.offset, header.size) || header.size > kMaxObjectBytes)
        return Malformed(Named(i) + " does not lie within the object");
      total += header.size;
      if (total > size_) return Malformed("the sections of unwind tables are larger than the object: they share bytes");
      file->sections[i].role = ObjectRole::kUnwind;
      file->sections[i].bytes = bytes_ + header.offset;
      file->sections[i].size = static_cast<uint32_t>(header.size);
    }
    return Status::Ok();
  }

  // An object that has gcc's intermediate code only says so with a symbol, and in byte 4 of a section (gcc's
  // struct lto_section).
  Status RefuseSlimLto(const ObjectFile& file) const {
    auto refused = [](std::string where) {
      return Unsupported(where +
                         " says that the object has intermediate code of link-time optimisation and no machine code: "
                         "compile without -flto, or with -ffat-lto-objects");
    };
    for (const ObjectSymbol& symbol : file.symbols)
      if (symbol.name == "__gnu_lto_slim") return refused("the symbol '__gnu_lto_slim'");
    for (uint32_t i = 1; i < headers_.size(); i++)
      if (StartsWith(names_[i], ".gnu.lto_.lto.") && headers_[i].type == kElfProgBits && headers_[i].size > 4 &&
          Has(headers_[i].offset, headers_[i].size) && bytes_[headers_[i].offset + 4] != 0)
        return refused(Named(i));
    return Status::Ok();
  }

  Status ReadRelocs(ObjectFile* file) {
    std::vector<uint32_t> tables, table_of(headers_.size());
    uint64_t total = 0;
    for (uint32_t i = 1; i < headers_.size(); i++) {
      const SectionHeader& header = headers_[i];
      if ((header.type != kElfRela && header.type != kElfRel) || header.size == 0) continue;
      if (header.info == 0 || header.info >= headers_.size())
        return Malformed(
            Format("%s has the relocs of section %u of %zu", Named(i).c_str(), header.info, headers_.size()));
      if (file->sections[header.info].role == ObjectRole::kIgnored) continue;
      if (header.type == kElfRel) return Malformed(Named(i) + " has relocs without addends (SHT_REL)");
      if (table_of[header.info] != 0)
        return Malformed(Format("%s has relocs of %s, and so has %s", Named(i).c_str(), Named(header.info).c_str(),
                                Named(table_of[header.info]).c_str()));
      table_of[header.info] = i;
      if (!Has(header.offset, header.size) || header.size % kElfRelaBytes != 0 || header.entry_size != kElfRelaBytes)
        return Malformed(Named(i) + " does not lie within the object, or ends within a reloc");
      if (header.link != symbol_table_ || symbol_table_ == 0)
        return Malformed(
            Format("%s refers to the symbol table in section %u, which is none", Named(i).c_str(), header.link));
      total += header.size / kElfRelaBytes;
      if (total > size_ / kElfRelaBytes) return Malformed("the relocs are more than the object has room for");
      tables.push_back(i);
    }
    file->relocs.reserve(total);
    for (uint32_t index : tables) {
      const SectionHeader& table = headers_[index];
      ObjectSection& section = file->sections[table.info];
      section.first_reloc = static_cast<uint32_t>(file->relocs.size());
      for (uint64_t n = 0; n < table.size / kElfRelaBytes; n++)
        if (Status failed = ReadReloc(file, table.info, bytes_ + table.offset + n * kElfRelaBytes)) return failed;
      section.reloc_count = static_cast<uint32_t>(file->relocs.size()) - section.first_reloc;
    }
    for (const ObjectSection& section : file->sections)
      std::stable_sort(file->relocs.begin() + section.first_reloc,
                       file->relocs.begin() + section.first_reloc + section.reloc_count,
                       [](const ObjectReloc& a, const ObjectReloc& b) { return a.offset < b.offset; });
    return Status::Ok();
  }

  Status ReadReloc(ObjectFile* file, uint32_t section_index, const uint8_t* at) {
    const ObjectSection& section = file->sections[section_index];
    uint64_t offset = LoadAs<uint64_t>(at);
    uint32_t kind = LoadAs<uint32_t>(at + 8);
    uint32_t symbol = LoadAs<uint32_t>(at + 12);
    if (kind == kObjectKindNone) return Status::Ok();
    const arch::KindInfo* info = kind <= UINT16_MAX ? arch::FindKind(static_cast<arch::RelocKind>(kind)) : nullptr;
    const GotKind* replaced = read_for_ == ReadFor::kExecutors ? FindGotKind(kind) : nullptr;
    if (replaced != nullptr) info = arch::FindKind(replaced->kind);
    auto where = [&] { return Format("%s + %#llx", Named(section_index).c_str(), Wide(offset)); };
    if (info == nullptr) {
      const char* name = ObjectKindName(kind);
      std::string shown = name != nullptr ? Format("%s (%u)", name, kind) : Format("number %u", kind);
      if (IsThreadLocalKind(kind))
        return Unsupported(
            Format("the reloc at %s is %s, a use of a thread-local variable: pass a pointer to the "
                   "thread's data instead",
                   where().c_str(), shown.c_str()));
      Error error{ErrorCode::kRelocKind, Format("the reloc at %s is of the kind %s, which is not one that an arena "
                                                "keeps (docs/relocs.md)",
                                                where().c_str(), shown.c_str())};
      error.kind = name != nullptr ? name : Format("%u", kind);
      return error;
    }
    GotUse got = replaced != nullptr ? replaced->use : info->through_slot ? GotUse::kSlot : GotUse::kNone;
    if (CountsFromBase(got) && section.role != ObjectRole::kCode) {
      Error error{ErrorCode::kRelocKind, Format("the reloc at %s is %s (%u), which counts from the base of a GOT, and "
                                                "only code has one here",
                                                where().c_str(), ObjectKindName(kind), kind)};
      error.kind = ObjectKindName(kind);
      return error;
    }
    // The base is the base whatever the symbol, by the psABI; compilers name _GLOBAL_OFFSET_TABLE_.
    if (got == GotUse::kBase) symbol = 0;
    if (offset > section.size || section.size - offset < arch::FieldOf(info->field).bytes)
      return Malformed(Format("the %u bytes of the reloc %s at %s do not lie within the section's %u bytes",
                              arch::FieldOf(info->field).bytes, info->name, where().c_str(), section.size));
    if (section.bytes == nullptr)
      return Malformed(Format("the reloc at %s is in a section without bytes", where().c_str()));
    if (symbol >= file->symbols.size())
      return Malformed(
          Format("the reloc at %s refers to symbol %u of %zu", where().c_str(), symbol, file->symbols.size()));
    // Symbol 0 stands for the absolute value 0.
    const ObjectSymbol& target = file->symbols[symbol];
    if (target.place == ObjectSymbol::Place::kSection && !IsLoaded(file->sections[target.section].role) &&
        section.role != ObjectRole::kUnwind)
      return Malformed(
          Format("the reloc at %s refers to %s, which is not loaded", where().c_str(), Named(target.section).c_str()));
    file->relocs.push_back(
        {static_cast<uint32_t>(offset), info->kind, got, static_cast<uint8_t>(kind), symbol, LoadAs<int64_t>(at + 16)});
    return Status::Ok();
  }

  const uint8_t* bytes_;
  size_t size_;
  ReadFor read_for_;
  std::vector<SectionHeader> headers_;
  std::vector<std::string_view> names_;
  uint32_t symbol_table_ = 0;
};

}  // namespace

Result<ObjectFile> ReadObject(const uint8_t* bytes, size_t size, ReadFor read_for) {
  ObjectFile file;
  if (Status failed = ObjectReader(bytes, size, read_for).Read(&file)) return failed;
  return file;
}

}  // namespace jit_arena
