"""The parts of tools/generate-schema: parser -> model -> types, commands, introspection, manual."""
