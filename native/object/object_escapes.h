// Which addresses of an object its code takes, or its data and state hold: why units do not move (object_units.h).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "object/object_file.h"

namespace jit_arena {

// How the instruction or the constant around a reloc uses its target.
SiteUse UseOf(const ObjectSection& section, const ObjectReloc& reloc);

class Escapes {
 public:
  explicit Escapes(const ObjectFile& file) : file_(file) {}

  // A use of a symbol that is in a section.
  void Add(uint32_t section, const ObjectReloc& reloc, SiteUse use);
  // Addresses that code takes of its own section, for which there is no reloc.
  void AddOwnAddresses(uint32_t section);

  size_t count() const { return escapes_.size(); }
  // In the order in which they were added.
  struct Reason {
    uint32_t section;  // whose address is taken
    std::string text;
  };
  std::vector<Reason> Reasons() const;

 private:
  // One reason: every use of the same kind of the same symbol by the same section.
  struct Escape {
    uint32_t section;
    uint32_t symbol;
    SiteUse use;
    bool operator<(const Escape& other) const {
      if (section != other.section) return section < other.section;
      return symbol != other.symbol ? symbol < other.symbol : use < other.use;
    }
  };
  struct Places {
    uint32_t first_offset;
    uint32_t count;
    uint32_t order;
    uint32_t target;  // the section whose address is taken
  };

  void Add(const Escape& escape, uint32_t offset, uint32_t target);
  uint32_t SymbolAt(uint32_t section, uint32_t offset);
  std::string TextOf(const Escape& escape, const Places& places) const;

  const ObjectFile& file_;
  std::map<Escape, Places> escapes_;
  std::vector<uint32_t> by_place_;  // named symbols in the order of their places, and symbol 0
};

// The name of a function that suspends a stack which has return addresses into the object; empty when it names none.
std::string_view FindStackSwitch(const ObjectFile& file);

// A name for messages: those in hostile objects are long.
inline std::string Shown(std::string_view name) { return std::string(name.substr(0, 80)); }

}  // namespace jit_arena
