#include "object/object_unwind.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <string>

#include "base/bits.h"

namespace jit_arena {
namespace {

// Encodings of pointers: the lower half is the form, then what the value counts from, then whether it is a pointer to
// it.
enum : uint8_t {
  kFormMask = 0x0F,
  kAbsolute = 0x00,  // form and base
  kBaseMask = 0x70,
  kFromHere = 0x10,
  kIndirect = 0x80,
  kOmitted = 0xFF,
};

uint32_t BytesOf(uint8_t encoding) {
  switch (encoding & 7) {
    case 0:
    case 4:
      return 8;
    case 2:
      return 2;
    case 3:
      return 4;
    default:
      return 0;
  }
}

class TableMaker {
 public:
  explicit TableMaker(ObjectFile* file) : file_(file) {}

  Status Read(uint32_t section) {
    section_ = section;
    cies_.clear();
    const ObjectSection& from = file_->sections[section];
    for (uint32_t at = 0; at < from.size;) {
      at_ = at;
      end_ = from.size;
      uint32_t length = Take<uint32_t>();
      if (ok_ && length == 0) {  // an end, behind which ld -r may have put another table
        at = at_;
        continue;
      }
      if (!ok_ || length == ~uint32_t{0} || length < 4 || length > from.size - at_)
        return Malformed(at, "does not lie within it");
      end_ = at_ + length;
      uint32_t id_at = at_;
      uint32_t id = Take<uint32_t>();
      Status failed = id == 0 ? CopyCie(at) : CopyFde(at, id_at, id);
      if (!failed.ok()) return failed;
      if (!ok_) return Malformed(at, "ends within something");
      at = end_;
    }
    return Status::Ok();
  }

  void Finish() {
    if (!has_functions_) return;
    frames_.needed = file_->frames.needed;
    file_->frames = std::move(frames_);
  }

 private:
  // What functions have in common.
  struct Cie {
    uint32_t entry;  // in frames_.entries
    uint8_t address_encoding = kAbsolute;
    uint8_t handlers_encoding = kOmitted;
    bool has_augmentation = false;
  };

  Error Malformed(uint32_t at, const char* what) const {
    return {ErrorCode::kObject, Format("section %u '.eh_frame': what is at %u %s", section_, at, what)};
  }
  Error Unsupported(uint32_t at, const char* what) const {
    return {ErrorCode::kObjectUnsupported, Format("section %u '.eh_frame': what is at %u has %s", section_, at, what)};
  }
  const uint8_t* bytes() const { return file_->sections[section_].bytes; }

  bool Has(uint32_t count) {
    ok_ = ok_ && end_ - at_ >= count;
    return ok_;
  }
  template <class T>
  T Take() {
    if (!Has(sizeof(T))) return T{};
    at_ += sizeof(T);
    return LoadAs<T>(bytes() + at_ - sizeof(T));
  }
  uint64_t TakeLeb() {
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      auto byte = Take<uint8_t>();
      if (shift < 64) value |= uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return value;
    }
  }
  void CopyLeb() {
    uint32_t from = at_;
    TakeLeb();
    out_.insert(out_.end(), bytes() + from, bytes() + at_);
  }
  // The rest of what is being read; nothing in it depends on an address.
  Status CopyRest(uint32_t entry) {
    if (RelocAt(at_, end_) != nullptr) return Unsupported(entry, "an instruction with an address");
    out_.insert(out_.end(), bytes() + at_, bytes() + end_);
    at_ = end_;
    return Status::Ok();
  }
  template <class T>
  void Put(T value) {
    size_t at = out_.size();
    out_.resize(at + sizeof value);
    std::memcpy(out_.data() + at, &value, sizeof value);
  }

  uint32_t Begin(uint32_t common, uint32_t section) {
    auto relocs = static_cast<uint32_t>(frames_.relocs.size());
    frames_.entries.push_back({static_cast<uint32_t>(out_.size()), 0, common, section, relocs, 0});
    Put<uint32_t>(0);  // the length
    Put<uint32_t>(0);  // the distance to what is common: of a function, UnitMaker::AddFrames writes it
    return static_cast<uint32_t>(frames_.entries.size() - 1);
  }
  // Zeros are instructions that do nothing.
  void End() {
    ObjectFile::Frames::Entry& entry = frames_.entries.back();
    out_.resize(AlignUp(out_.size(), 8));  // the next one's addresses are aligned
    entry.size = static_cast<uint32_t>(out_.size()) - entry.at;
    entry.reloc_count = static_cast<uint32_t>(frames_.relocs.size()) - entry.first_reloc;
    StoreAs<uint32_t>(out_.data() + entry.at, entry.size - 4);
  }

  const ObjectReloc* RelocAt(uint32_t from, uint32_t end) const { return FindReloc(*file_, section_, from, end); }

  // An address: `*reloc` is null for 0.
  Status TakeAddress(uint32_t entry, uint8_t encoding, const ObjectReloc** reloc) {
    uint32_t count = BytesOf(encoding);
    uint8_t base = encoding & kBaseMask;
    if (count == 0 || (base != kAbsolute && base != kFromHere)) return Unsupported(entry, "an unknown encoding");
    if (!Has(count)) return Status::Ok();
    *reloc = RelocAt(at_, at_ + count);
    bool zero = std::all_of(bytes() + at_, bytes() + at_ + count, [](uint8_t byte) { return byte == 0; });
    if (*reloc == nullptr && !zero) return Unsupported(entry, "an address without a reloc");
    if (*reloc != nullptr) {
      const arch::KindInfo& info = *arch::FindKind((*reloc)->kind);
      const arch::FieldInfo& field = arch::FieldOf(info.field);
      if ((*reloc)->offset != at_ || (*reloc)->got != GotUse::kNone || field.bytes != count ||
          field.relative != (base == kFromHere))
        return Unsupported(entry, "a reloc that does not go with its encoding");
    }
    at_ += count;
    return Status::Ok();
  }
  void PutAddress(const ObjectReloc* reloc) {
    if (reloc != nullptr)
      frames_.relocs.push_back({static_cast<uint32_t>(out_.size()), kObjectAbsolute64, GotUse::kNone, kObjectAbsolute64,
                                reloc->symbol, reloc->addend});
    Put<uint64_t>(0);
  }

  // The pointer's own reloc, where the object defines the pointer.
  Status FollowPointer(uint32_t entry, const ObjectReloc** reloc) const {
    const ObjectSymbol& symbol = file_->symbols[(*reloc)->symbol];
    if (symbol.place != ObjectSymbol::Place::kSection)
      return Unsupported(entry, "a pointer to its personality routine in another object");
    uint64_t at = symbol.value + static_cast<uint64_t>((*reloc)->addend);
    if (at >= file_->sections[symbol.section].size) return Malformed(entry, "has a pointer outside of its section");
    *reloc = FindPointer(*file_, symbol.section, at);
    if (*reloc == nullptr) return Unsupported(entry, "a pointer to its personality routine that holds no address");
    return Status::Ok();
  }

  Status CopyCie(uint32_t entry) {
    Cie cie{Begin(kNoIndex, kNoIndex)};
    auto version = Take<uint8_t>();
    if (version != 1 && version != 3) return Unsupported(entry, "an unknown version");
    Put(version);
    std::string augmentation;
    for (auto c = Take<uint8_t>(); ok_ && c != 0; c = Take<uint8_t>()) augmentation.push_back(static_cast<char>(c));
    out_.insert(out_.end(), augmentation.c_str(), augmentation.c_str() + augmentation.size() + 1);
    CopyLeb();  // what code counts in, what data counts in
    CopyLeb();
    if (version == 1)  // where the return address is
      Put(Take<uint8_t>());
    else
      CopyLeb();
    if (!augmentation.empty() && augmentation[0] != 'z') return Unsupported(entry, "an unknown augmentation");
    cie.has_augmentation = !augmentation.empty();
    if (cie.has_augmentation)
      if (Status failed = CopyAugmentation(entry, augmentation, &cie)) return failed;
    if (!ok_) return Status::Ok();
    if (Status failed = CopyRest(entry)) return failed;
    End();
    cies_[entry] = cie;
    return Status::Ok();
  }

  Status CopyAugmentation(uint32_t entry, const std::string& augmentation, Cie* cie) {
    uint64_t length = TakeLeb();
    uint64_t end = at_ + length;
    size_t length_at = out_.size();
    Put<uint8_t>(0);
    for (size_t i = 1; i < augmentation.size() && ok_; i++) {
      uint8_t encoding = augmentation[i] == 'S' || augmentation[i] == 'B' ? uint8_t{kOmitted} : Take<uint8_t>();
      const ObjectReloc* personality = nullptr;
      switch (augmentation[i]) {
        case 'P':
          if (Status failed = TakeAddress(entry, encoding & ~kIndirect, &personality)) return failed;
          if (personality != nullptr && (encoding & kIndirect) != 0)
            if (Status failed = FollowPointer(entry, &personality)) return failed;
          Put<uint8_t>(kAbsolute);
          PutAddress(personality);
          break;
        case 'L':
          cie->handlers_encoding = encoding;
          Put<uint8_t>(encoding == kOmitted ? kOmitted : kAbsolute);
          break;
        case 'R':
          cie->address_encoding = encoding;
          Put<uint8_t>(kAbsolute);
          break;
        case 'S':  // frames of signal handlers
        case 'B':  // arm64: return addresses are signed with another key
          break;
        default:
          return Unsupported(entry, "an unknown augmentation");
      }
    }
    if (ok_ && at_ != end) return Malformed(entry, "has an augmentation of another length");
    for (uint8_t encoding : {cie->address_encoding, cie->handlers_encoding})
      if (encoding != kOmitted && (encoding & kIndirect) != 0) return Unsupported(entry, "an unknown encoding");
    size_t copied = out_.size() - length_at - 1;
    if (copied > 0x7F) return Unsupported(entry, "an unknown augmentation");  // the length has one byte
    out_[length_at] = static_cast<uint8_t>(copied);
    return Status::Ok();
  }

  Status CopyFde(uint32_t entry, uint32_t id_at, uint32_t id) {
    auto found = id <= id_at ? cies_.find(id_at - id) : cies_.end();
    if (found == cies_.end()) return Malformed(entry, "refers to nothing that is before it");
    const Cie& cie = found->second;
    const ObjectReloc* function = nullptr;
    if (Status failed = TakeAddress(entry, cie.address_encoding, &function)) return failed;
    uint32_t count = BytesOf(cie.address_encoding);
    if (!Has(count)) return Status::Ok();
    uint64_t range = 0;
    std::memcpy(&range, bytes() + at_, count);
    at_ += count;
    // Of code that is not loaded there is nothing to know.
    if (function == nullptr || range == 0 || !IsCode(*function)) return Status::Ok();
    if (!IsWithin(*function, range)) return Malformed(entry, "is of code beyond its section");

    has_functions_ = true;
    Begin(cie.entry, file_->symbols[function->symbol].section);
    PutAddress(function);
    Put<uint64_t>(range);
    if (cie.has_augmentation) {
      uint64_t length = TakeLeb();
      uint64_t end = at_ + length;
      const ObjectReloc* handlers = nullptr;
      bool has_handlers = cie.handlers_encoding != kOmitted;
      if (has_handlers)
        if (Status failed = TakeAddress(entry, cie.handlers_encoding, &handlers)) return failed;
      Put<uint8_t>(has_handlers ? 8 : 0);
      if (has_handlers) PutAddress(handlers);
      if (ok_ && at_ != end) return Malformed(entry, "has an augmentation of another length");
    }
    if (!ok_) return Status::Ok();
    if (Status failed = CopyRest(entry)) return failed;
    End();
    return Status::Ok();
  }

  bool IsCode(const ObjectReloc& reloc) const {
    const ObjectSymbol& symbol = file_->symbols[reloc.symbol];
    return symbol.place == ObjectSymbol::Place::kSection && file_->sections[symbol.section].role == ObjectRole::kCode;
  }

  bool IsWithin(const ObjectReloc& function, uint64_t range) const {
    const ObjectSymbol& symbol = file_->symbols[function.symbol];
    uint64_t size = file_->sections[symbol.section].size;
    uint64_t begin = symbol.value + static_cast<uint64_t>(function.addend);
    return begin <= size && range <= size - begin;
  }

  ObjectFile* file_;
  uint32_t section_ = 0;
  uint32_t at_ = 0, end_ = 0;  // in the section, of what is being read
  bool ok_ = true;             // nothing was read behind the end
  bool has_functions_ = false;
  std::map<uint32_t, Cie> cies_;
  ObjectFile::Frames frames_;
  std::vector<uint8_t>& out_ = frames_.bytes;
};

}  // namespace

Status AddUnwindTable(ObjectFile* file) {
  TableMaker maker(file);
  for (uint32_t i = 0; i < file->sections.size(); i++)
    if (file->sections[i].role == ObjectRole::kUnwind)
      if (Status failed = maker.Read(i)) {
        if (file->frames.needed) return failed;
        return Status::Ok();
      }
  maker.Finish();
  return Status::Ok();
}

}  // namespace jit_arena
