#include "node/specs.h"

#include <algorithm>

#include "node/elements.h"

namespace jit_arena::node {
namespace {

struct SpecArguments {
  explicit SpecArguments(const Napi::CallbackInfo& info, const Environment& environment) {
    const double* numbers = environment.mailbox->numbers;
    for (int section = 0; section < kSections; section++) {
      if (info[section].IsTypedArray()) {
        Elements<uint8_t> bytes = ElementsOf<uint8_t>(info[section]);
        spec.bytes[section] = bytes.count != 0 ? bytes.data : nullptr;
        spec.sizes[section] = static_cast<uint32_t>(std::min<size_t>(bytes.count, UINT32_MAX));
      } else {
        spec.sizes[section] = static_cast<uint32_t>(numbers[kCodeBytes + section]);
      }
      spec.aligns[section] = static_cast<uint32_t>(numbers[kCodeAlign + section]);
    }
    spec.movable = numbers[kMovable] != 0;
    spec.evictable = static_cast<int8_t>(numbers[kEvictable]);
    spec.makes_progress = numbers[kMakesProgress] != 0;
    spec.exit_count = static_cast<uint32_t>(numbers[kExits]);
    spec.relocs = environment.relocs;
    spec.reloc_count = static_cast<uint32_t>(numbers[kRelocs]);
    if (info[3].IsString()) name = info[3].As<Napi::String>().Utf8Value();
    spec.name = name;
    if (info[4].IsTypedArray()) {
      Elements<uint32_t> array = ElementsOf<uint32_t>(info[4]);
      spec.entries = array.data;
      spec.entry_count = static_cast<uint32_t>(array.count);
    }
    if (info[5].IsTypedArray()) {
      Elements<uint32_t> array = ElementsOf<uint32_t>(info[5]);
      if (array.count >= spec.exit_count) spec.exit_tags = array.data;
    }
  }
  ExecutorSpec spec;
  std::string name;
};

}  // namespace

Status CheckRelocs(const Environment& environment) {
  double count = environment.mailbox->numbers[kRelocs];
  if (count >= 0 && count <= static_cast<double>(environment.reloc_capacity)) return Status::Ok();
  return Error{ErrorCode::kRelocBounds, "the list of relocs changed its length while it was read"};
}

Status Allocate(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  Environment& environment = *handle.environment;
  if (Status missing = CheckRelocs(environment)) return missing;
  SpecArguments arguments(info, environment);
  Result<ExecutorId> id = handle.arena->Allocate(arguments.spec);
  if (!id.ok()) return std::move(id.status());
  environment.mailbox->numbers[kId] = static_cast<double>(id.value());
  return Status::Ok();
}

Status Install(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  Environment& environment = *handle.environment;
  if (Status missing = CheckRelocs(environment)) return missing;
  SpecArguments arguments(info, environment);
  ExecutorId id = 0;
  if (Status failed = handle.arena->Install(&arguments.spec, 1, &id, handle.pin)) return failed;
  environment.mailbox->numbers[kId] = static_cast<double>(id);
  return Status::Ok();
}

Status BeginSpecs(ArenaHandle& handle, const Napi::CallbackInfo&) {
  handle.lists.emplace_back();
  return Status::Ok();
}

Status AddSpec(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  Environment& environment = *handle.environment;
  if (Status missing = CheckRelocs(environment)) return missing;
  SpecArguments arguments(info, environment);
  handle.lists.back().emplace_back(arguments.spec);
  return Status::Ok();
}

Status InstallSpecs(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  std::vector<ExecutorSpec> specs;
  for (const SpecCopy& copy : handle.lists.back()) specs.push_back(copy.Spec());
  Elements<double> ids = ElementsOf<double>(info[0]);
  std::vector<ExecutorId> installed(specs.size());
  JIT_ARENA_CHECK(ids.count == specs.size());
  const uint32_t count = static_cast<uint32_t>(specs.size());
  if (Status failed = handle.arena->Install(specs.data(), count, installed.data(), handle.pin)) return failed;
  for (uint32_t i = 0; i < count; i++) ids[i] = static_cast<double>(installed[i]);
  return Status::Ok();
}

Status EndSpecs(ArenaHandle& handle, const Napi::CallbackInfo&) {
  handle.lists.pop_back();
  return Status::Ok();
}

Status InstallBatch(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  Environment& environment = *handle.environment;
  Elements<uint8_t> code = ElementsOf<uint8_t>(info[0]);
  Elements<double> code_offsets = ElementsOf<double>(info[1]);
  Elements<uint8_t> data = ElementsOf<uint8_t>(info[2]);
  Elements<double> data_offsets = ElementsOf<double>(info[3]);
  Elements<double> relocs_of_each = ElementsOf<double>(info[4]);
  Elements<double> ids = ElementsOf<double>(info[5]);
  uint32_t count = static_cast<uint32_t>(ids.count);
  std::vector<ExecutorSpec> specs(count);
  const RelocSpec* relocs = environment.relocs;
  if (Status missing = CheckRelocs(environment)) return missing;
  // TypeScript has checked that offsets ascend, and makes the lists.
  if (code_offsets.count != count + size_t{1} || data_offsets.count != code_offsets.count ||
      relocs_of_each.count != count || code_offsets[count] > static_cast<double>(code.count) ||
      data_offsets[count] > static_cast<double>(data.count))
    return Error{ErrorCode::kSize, "the offsets of the batch reach beyond its bytes"};
  for (uint32_t i = 0; i < count; i++) {
    ExecutorSpec& spec = specs[i];
    spec.bytes[0] = code.data + static_cast<size_t>(code_offsets[i]);
    spec.sizes[0] = static_cast<uint32_t>(code_offsets[i + 1] - code_offsets[i]);
    spec.bytes[1] = data.data + static_cast<size_t>(data_offsets[i]);
    spec.sizes[1] = static_cast<uint32_t>(data_offsets[i + 1] - data_offsets[i]);
    spec.relocs = relocs;
    spec.reloc_count = static_cast<uint32_t>(relocs_of_each[i]);
    relocs += spec.reloc_count;
  }
  std::vector<ExecutorId> installed(count);
  if (Status failed = handle.arena->Install(specs.data(), count, installed.data(), handle.pin)) return failed;
  for (uint32_t i = 0; i < count; i++) ids[i] = static_cast<double>(installed[i]);
  return Status::Ok();
}

}  // namespace jit_arena::node
