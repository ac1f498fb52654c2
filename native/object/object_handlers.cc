#include "object/object_handlers.h"

#include <map>
#include <utility>

#include "object/object_groups.h"

namespace jit_arena {
namespace {

class TypePointers {
 public:
  explicit TypePointers(ObjectFile* file) : file_(file) {}

  void Find() {
    ForEachReloc([&](const ObjectSection& section, ObjectReloc& reloc) {
      if (!HoldsHandlers(section.name) || !IsDistance(reloc)) return;
      if (ObjectReloc* pointer = PointerAt(PlaceOf(reloc))) pointers_.try_emplace(PlaceOf(reloc), Pointer{pointer});
    });
    if (pointers_.empty()) return;
    ForEachReloc([&](const ObjectSection& section, ObjectReloc& reloc) {
      if (HoldsHandlers(section.name) && IsDistance(reloc)) return;
      // An instruction counts from its end, and a constant of 1, 2 or 4 bytes may stand behind the field.
      for (uint64_t behind : {0, 4, 5, 6, 8}) {
        Place place = PlaceOf(reloc);
        place.second += behind;
        if (behind == 0 || section.role == ObjectRole::kCode) Keep(place);
      }
    });
  }

  // The tables refer to slots, and nothing is left in the variables.
  void Replace() {
    for (auto& [place, pointer] : pointers_) {
      if (pointer.reloc == nullptr) continue;
      pointer.symbol = SymbolOf(*pointer.reloc);
      pointer.reloc->symbol = 0;
      pointer.reloc->addend = 0;
    }
    ForEachReloc([&](const ObjectSection& section, ObjectReloc& reloc) {
      if (!HoldsHandlers(section.name) || !IsDistance(reloc)) return;
      auto found = pointers_.find(PlaceOf(reloc));
      if (found == pointers_.end() || found->second.reloc == nullptr) return;
      reloc.symbol = found->second.symbol;
      reloc.addend = 0;
      reloc.got = GotUse::kSlot;
    });
  }

 private:
  using Place = std::pair<uint32_t, uint64_t>;  // section and offset
  struct Pointer {
    ObjectReloc* reloc;
    uint32_t symbol = 0;
  };

  template <class Visit>
  void ForEachReloc(Visit visit) {
    for (const ObjectSection& section : file_->sections)
      for (uint32_t i = section.first_reloc; i < section.first_reloc + section.reloc_count; i++)
        visit(section, file_->relocs[i]);
  }

  // Something else than a table refers to the place: a pointer that it lies in stays.
  void Keep(const Place& place) {
    auto found = pointers_.upper_bound(place);
    if (found == pointers_.begin()) return;
    --found;
    if (found->first.first == place.first && place.second - found->first.second < 8) found->second.reloc = nullptr;
  }

  // What it refers to; {0, 0}, where no variable is, when it is nothing of the object.
  Place PlaceOf(const ObjectReloc& reloc) const {
    const ObjectSymbol& symbol = file_->symbols[reloc.symbol];
    if (symbol.place != ObjectSymbol::Place::kSection) return {0, 0};
    return {symbol.section, symbol.value + static_cast<uint64_t>(reloc.addend)};
  }

  ObjectReloc* PointerAt(const Place& place) {
    if (file_->sections[place.first].role != ObjectRole::kState) return nullptr;
    const ObjectReloc* found = FindPointer(*file_, place.first, place.second);
    // A slot has the address of a symbol.
    bool has_symbol = found != nullptr && (found->addend == 0 || PlaceOf(*found).first != 0);
    return has_symbol ? &file_->relocs[static_cast<size_t>(found - file_->relocs.data())] : nullptr;
  }

  // One for the very place that the pointer leads to.
  uint32_t SymbolOf(const ObjectReloc& pointer) {
    if (pointer.addend == 0) return pointer.symbol;
    ObjectSymbol symbol = file_->symbols[pointer.symbol];
    symbol.value += static_cast<uint64_t>(pointer.addend);
    symbol.global = symbol.weak = symbol.is_section = false;
    symbol.name = {};
    file_->symbols.push_back(symbol);
    return static_cast<uint32_t>(file_->symbols.size() - 1);
  }

  ObjectFile* file_;
  std::map<Place, Pointer> pointers_;  // a null reloc: something else uses it
};

}  // namespace

void KeepTypesInSlots(ObjectFile* file) {
  TypePointers pointers(file);
  pointers.Find();
  pointers.Replace();
}

}  // namespace jit_arena
