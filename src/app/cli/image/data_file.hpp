// The external data file of a qcow2 image that is made: where it lies, and what the image calls it.
//
// It lies beside the image, where alone it is looked for when nobody says otherwise.  One that is there is never
// overwritten: it may hold another image's data.
#pragma once

#include <functional>
#include <string>

#include "io/reactor.hpp"

namespace tidemark::cli {

struct DataFile {
  std::string path;                      // empty: there is none
  std::string stored;                    // in the image's header
};

// `given`: a bare name, or a path as seen from here; empty: none.
Task<DataFile> place_data_file(Reactor& reactor, std::string image, std::string given);

// Makes both by make(partial image, partial data file), which closes them; the image's name appears last.
Task<> make_with_data_file(Reactor& reactor, std::string image, DataFile data,
                           std::function<Task<>(std::string image, std::string data)> make);

}  // namespace tidemark::cli
