// Objects that a test writes byte by byte, and what becomes of them.
#pragma once

#include <cstdio>
#include <cstring>
#include <deque>
#include <string>
#include <vector>

#include "object/object_file.h"
#include "object/object_units.h"
#include "test.h"

namespace test {

using namespace jit_arena;

// An object of sections, symbols and relocs in the simplest order: header, bodies, tables, section headers.
struct ElfMaker {
  struct MadeSection {
    std::string name;
    uint32_t type = 1;
    uint64_t flags = 0;
    std::vector<uint8_t> bytes;
    uint64_t size = 0;  // of the NOBITS kind
    uint32_t link = 0, info = 0;
    uint64_t align = 1, entry_size = 0;
  };
  struct MadeReloc {
    uint64_t offset;
    uint32_t kind, symbol;
    int64_t addend;
  };

  ElfMaker() { sections.push_back({}); }

  uint32_t Add(std::string name, uint64_t flags, std::vector<uint8_t> bytes, uint64_t align = 1) {
    sections.push_back({std::move(name), 1, flags, std::move(bytes), 0, 0, 0, align, 0});
    return static_cast<uint32_t>(sections.size() - 1);
  }

  uint32_t Symbol(const std::string& name, uint8_t info, uint16_t section, uint64_t value, uint64_t size = 0) {
    if (symbols.empty()) symbols.resize(24);
    size_t at = symbols.size();
    symbols.resize(at + 24);
    Put<uint32_t>(symbols, at, AddName(name));
    symbols[at + 4] = info;
    Put<uint16_t>(symbols, at + 6, section);
    Put<uint64_t>(symbols, at + 8, value);
    Put<uint64_t>(symbols, at + 16, size);
    return static_cast<uint32_t>(at / 24);
  }

  void Relocs(uint32_t section, std::vector<MadeReloc> relocs) {
    std::vector<uint8_t> bytes(relocs.size() * 24);
    for (size_t i = 0; i < relocs.size(); i++) {
      Put<uint64_t>(bytes, i * 24, relocs[i].offset);
      Put<uint32_t>(bytes, i * 24 + 8, relocs[i].kind);
      Put<uint32_t>(bytes, i * 24 + 12, relocs[i].symbol);
      Put<int64_t>(bytes, i * 24 + 16, relocs[i].addend);
    }
    sections.push_back({".rela", 4, 0, std::move(bytes), 0, 0, section, 8, 24});
  }

  std::vector<uint8_t> Make() {
    std::vector<MadeSection> all = sections;
    uint32_t symbol_table = static_cast<uint32_t>(all.size());
    for (MadeSection& section : all)
      if (section.type == 4) section.link = symbol_table;
    if (symbols.empty()) symbols.resize(24);
    all.push_back({".symtab", 2, 0, symbols, 0, symbol_table + 1, 1, 8, 24});
    for (MadeSection& section : all) section_names.push_back(AddName(section.name));
    section_names.push_back(AddName(".strtab"));
    all.push_back({".strtab", 3, 0, names, 0, 0, 0, 1, 0});

    std::vector<uint8_t> out = {0x7F, 'E', 'L', 'F', 2, 1, 1};
    out.resize(64);
    Put<uint16_t>(out, 16, 1);
    Put<uint16_t>(out, 18, 62);
    Put<uint32_t>(out, 20, 1);
    Put<uint16_t>(out, 52, 64);
    Put<uint16_t>(out, 58, 64);
    Put<uint16_t>(out, 60, static_cast<uint16_t>(all.size()));
    Put<uint16_t>(out, 62, static_cast<uint16_t>(all.size() - 1));
    std::vector<uint64_t> offsets;
    for (const MadeSection& section : all) {
      out.resize((out.size() + 7) & ~size_t{7});
      offsets.push_back(out.size());
      out.insert(out.end(), section.bytes.begin(), section.bytes.end());
    }
    out.resize((out.size() + 7) & ~size_t{7});
    headers = out.size();
    Put<uint64_t>(out, 40, headers);
    out.resize(headers + 64 * all.size());
    for (size_t i = 1; i < all.size(); i++) {
      size_t at = headers + 64 * i;
      const MadeSection& section = all[i];
      Put<uint32_t>(out, at, section_names[i]);
      Put<uint32_t>(out, at + 4, section.type);
      Put<uint64_t>(out, at + 8, section.flags);
      Put<uint64_t>(out, at + 24, offsets[i]);
      Put<uint64_t>(out, at + 32, section.type == 8 ? section.size : section.bytes.size());
      Put<uint32_t>(out, at + 40, section.link);
      Put<uint32_t>(out, at + 44, section.info);
      Put<uint64_t>(out, at + 48, section.align);
      Put<uint64_t>(out, at + 56, section.entry_size);
    }
    return out;
  }

  template <class T>
  static void Put(std::vector<uint8_t>& bytes, size_t at, T value) {
    std::memcpy(bytes.data() + at, &value, sizeof value);
  }

  uint32_t AddName(const std::string& name) {
    if (names.empty()) names.push_back(0);
    if (name.empty()) return 0;
    uint32_t at = static_cast<uint32_t>(names.size());
    names.insert(names.end(), name.begin(), name.end());
    names.push_back(0);
    return at;
  }

  std::vector<MadeSection> sections;
  std::vector<uint8_t> symbols;
  std::vector<uint8_t> names;
  std::vector<uint32_t> section_names;
  size_t headers = 0;  // where the section headers begin
};

inline constexpr uint64_t kA = 2, kAX = 6, kWA = 3;
inline constexpr uint8_t kGlobalFunction = 0x12, kGlobalObject = 0x11, kLocalSection = 3, kGlobalNone = 0x10,
                         kWeakNone = 0x20;

inline Status ReadStatus(const std::vector<uint8_t>& bytes) {
  Result<ObjectFile> file = ReadObject(bytes.data(), bytes.size(), ReadFor::kExecutors);
  if (!file.ok()) return std::move(file.status());
  Result<ObjectUnits> units = MakeUnits(file.value());
  return units.ok() ? Status::Ok() : std::move(units.status());
}

inline bool Refuses(const std::vector<uint8_t>& bytes, const char* words, ErrorCode code = ErrorCode::kObject) {
  Status status = ReadStatus(bytes);
  if (status.code() == code && status.error().message.find(words) != std::string::npos) return true;
  std::printf("  instead: %s\n", status.ok() ? "accepted" : status.error().message.c_str());
  return false;
}

// The units have views of the bytes, which stay for as long as the process.
inline ObjectUnits UnitsOf(std::vector<uint8_t> given) {
  static std::deque<std::vector<uint8_t>> kept;
  const std::vector<uint8_t>& bytes = kept.emplace_back(std::move(given));
  Result<ObjectFile> file = ReadObject(bytes.data(), bytes.size(), ReadFor::kExecutors);
  CHECK(file.ok());
  if (!file.ok()) return {};
  Result<ObjectUnits> units = MakeUnits(file.value());
  CHECK(units.ok());
  return units.ok() ? std::move(units.value()) : ObjectUnits{};
}

}  // namespace test
