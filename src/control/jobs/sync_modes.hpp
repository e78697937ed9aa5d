// What of a disk is copied, from the schema's types to the jobs' own.
#pragma once

#include "job/backup/backup_options.hpp"
#include "schema/backup.hpp"

namespace tidemark {

inline SyncMode to_sync(schema::MirrorSyncMode mode) {
  switch (mode) {
    case schema::MirrorSyncMode::top: return SyncMode::top;
    case schema::MirrorSyncMode::full: return SyncMode::full;
    case schema::MirrorSyncMode::none: return SyncMode::none;
    case schema::MirrorSyncMode::incremental: return SyncMode::incremental;
    case schema::MirrorSyncMode::bitmap: return SyncMode::bitmap;
  }
  return SyncMode::full;
}

inline BitmapMode to_bitmap_mode(schema::BitmapSyncMode mode) {
  switch (mode) {
    case schema::BitmapSyncMode::on_success: return BitmapMode::on_success;
    case schema::BitmapSyncMode::never: return BitmapMode::never;
    case schema::BitmapSyncMode::always: return BitmapMode::always;
  }
  return BitmapMode::on_success;
}

}  // namespace tidemark
