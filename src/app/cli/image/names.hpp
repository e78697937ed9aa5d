// How images are named on the command line, and what blockdev-add would take to open them.
//
//   PATH, file:PATH          a regular file or block device, with what its header says is below it
//   nbd://HOST[:PORT]/NAME, nbd+unix:///NAME?socket=PATH, nbd:unix:PATH:exportname=NAME, nbd:HOST:PORT
//   json:{...}               what blockdev-add takes
//
// This is the command line's gate for names inside images: a backing file is opened when it is a file or a block
// device and its format is said, or nothing in it could be taken for a format.
#pragma once

#include <string>
#include <vector>

#include "format/qcow2/layout/header.hpp"
#include "io/reactor.hpp"
#include "schema/node.hpp"

namespace tidemark::cli {

struct ImageName {
  std::string name, format;        // format empty: by name and content, which must agree
  std::string snapshot = {};       // not empty: as it was then, to be read; as choose_snapshot() takes it
  bool alone = false;              // it stands on nothing here, whatever its header says
};

struct ImageAccess {
  bool write = false, force_share = false, direct = false;
  std::string data_file = {};      // where its external data file is; empty: as the image says
  bool below = true;               // with its backing files; false: what is below reads as zeroes
  bool keeps_content = false;      // its bitmaps count though it is written: what it reads as stays, or KeptBitmaps sees to them
  bool trust_content = false;      // a name that says otherwise does not matter: nothing but this file is opened
};

// The files of a chain from `top` on, which has a path and a format.  Fails where it loops.
Task<std::vector<ImageName>> chain_of(Reactor& reactor, ImageName top);

// Fails where one of the files, which are of one chain, stands on another one by itself: it cannot be taken out of the chain.
Result<> check_none_alone(const std::vector<ImageName>& chain);

// By any of its names.
Task<bool> is_same_file(Reactor& reactor, std::string one, std::string other);

// Fails when an image is in the chain of the file that it is to stand on.
Task<> check_no_loop(Reactor& reactor, std::vector<ImageName> below, std::string image);

// What opens these, each standing on the next one, the last on nothing; all to be read only.
Task<Json> describe_layers(Reactor& reactor, std::vector<ImageName> layers);

// What opens the image, as JSON that blockdev-add takes.
Task<Json> describe(Reactor& reactor, ImageName name, ImageAccess access);

// Adds how it is opened to such a description.
void apply(Json& description, const ImageAccess& access);

// The part of it that opens the bytes alone, without a format.
Task<Json> describe_storage(Reactor& reactor, std::string name);

// "raw" or "qcow2".
Task<std::string> format_of(Reactor& reactor, ImageName name, bool trust_content);

// The path, when the name is that of a file or block device.
std::optional<std::string> local_path(const std::string& name);

Task<qcow2::Header> read_header(Reactor& reactor, std::string path);

// The name of the image below, as seen from `path`; an error where it is not one that the gate lets pass.
Task<ImageName> backing_of(Reactor& reactor, std::string path, std::string backing_name, std::string backing_format);

}  // namespace tidemark::cli
