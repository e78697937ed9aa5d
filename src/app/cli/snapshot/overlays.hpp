// Overlays that are made without a daemon: empty images on top of others, all of them or none.
#pragma once

#include "app/cli/context.hpp"
#include "app/cli/image/session.hpp"

namespace tidemark::cli {

struct NewOverlay {
  std::string file;                      // to be made
  std::string below, below_format;
};

// An overlay at `path`, which another file of that name is made under; as large as what is below.
Task<> make_overlay(Reactor& reactor, NewOverlay overlay, std::string path);

// Each appears under its name when all are whole, and nobody else has a file of that name; what fails leaves none of them, and
// what others make as it is.  No bitmaps that an image of that name had once are taken for its own.
Task<> make_overlays(Reactor& reactor, std::vector<NewOverlay> overlays);

// Its bytes, which nobody else writes to until the session closes; the file is the one of that name.
Task<Edge*> hold_file(Session& session, std::string file);

// Fails where a file that is written to, or is to be, is open in another program.
Task<> check_not_in_use(Reactor& reactor, std::string file);

Task<> check_new_file(Reactor& reactor, std::string file);

}  // namespace tidemark::cli
