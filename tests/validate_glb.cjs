// Prints the Khronos validator's report on the GLB file named on the command line, as JSON.
const fs = require("fs");
const validator = require("gltf-validator");

validator
  .validateBytes(new Uint8Array(fs.readFileSync(process.argv[2])))
  .then((report) => process.stdout.write(JSON.stringify(report)));
