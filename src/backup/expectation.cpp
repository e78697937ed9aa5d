#include "backup/expectation.hpp"

#include <algorithm>

namespace tidemark {

bool is_damage(const Error& error) noexcept {
  switch (error.code()) {
    case Errc::corrupt: case Errc::invalid_format: case Errc::unsupported: case Errc::out_of_range:
    case Errc::not_found: case Errc::invalid_argument: return true;
    default: return false;
  }
}

Error as_damage(const Error& error) { return is_damage(error) ? Error(Errc::corrupt, error.message(), error.os_errno()) : error; }

Task<Expectations> Expectations::open(Reactor& reactor, const BackupDirectory& directory,
                                      std::vector<const PointManifest*> chain, std::string disk) {
  Expectations all;
  auto opened = co_await all.open_layers(reactor, directory, std::move(chain), std::move(disk)).result();
  if (!opened) {
    (void)co_await all.close().result();
    co_await opened.error();
  }
  co_return std::move(all);
}

Task<> Expectations::open_layers(Reactor& reactor, const BackupDirectory& directory,
                                 std::vector<const PointManifest*> chain, std::string disk) {
  const DiskManifest& top = *chain.front()->find(disk);
  granularity_ = top.granularity;
  disk_size_ = top.size;
  granules_ = div_up(top.size, top.granularity);
  for (const PointManifest* point : chain) {
    const DiskManifest& entry = *point->find(disk);
    if (entry.granularity != granularity_ || entry.size != disk_size_)
      co_await Error(Errc::corrupt, "point " + point->id + ": disk '" + disk +
                                        "' has another size or granularity than the points that build on it");
    auto layer = co_await SumsReader::open(reactor, directory.point_path(point->id) + "/" + entry.sums_file(),
                                           entry.size, entry.granularity, entry.sums_digest).result();
    if (!layer) co_await as_damage(layer.error());
    layers_.push_back(*std::move(layer));
  }
}

Task<Expectation> Expectations::next(std::uint64_t data_max) {
  Expectation expected;
  if (at_ >= granules_) co_return std::move(expected);
  std::uint64_t end = granules_;                 // of the stretch; a newer layer's run ends it early
  const SumsRun* decides = nullptr;
  for (SumsReader& layer : layers_) {
    while (layer.run().count != 0 && layer.run().end() <= at_) co_await layer.next();
    const SumsRun& run = layer.run();
    if (run.count == 0) continue;
    if (run.first > at_) {
      end = std::min(end, run.first);
      continue;
    }
    end = std::min(end, run.end());
    decides = &run;
    break;
  }
  expected.zero = !decides || decides->kind == SumsRun::Kind::zero;
  if (!expected.zero) {
    end = std::min(end, at_ + data_max / granularity_);
    const auto first = decides->digests.begin() + static_cast<std::ptrdiff_t>(at_ - decides->first);
    expected.digests.assign(first, first + static_cast<std::ptrdiff_t>(end - at_));
  }
  expected.range.offset = at_ * granularity_;
  expected.range.length = std::min(end * granularity_, disk_size_) - expected.range.offset;
  at_ = end;
  co_return std::move(expected);
}

Task<> Expectations::close() {
  Result<> first;
  for (SumsReader& layer : layers_) {
    auto closed = co_await layer.close().result();
    if (first && !closed) first = closed;
  }
  layers_.clear();
  if (!first) co_await first.error();
}

}  // namespace tidemark
