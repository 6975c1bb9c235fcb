// For mongosh after administer.js: what `load` does before and after mongorestore.

const ANYTHING = { role: "replay", privileges: [{ resource: { anyResource: true }, actions: ["anyAction"] }], roles: [] };
const OF_THE_SERVER = ["admin", "config", "local"];
const admin = db.getSiblingDB("admin");

function allowReplay() {
  if (!admin.getRole("replay")) admin.createRole(ANYTHING);
  admin.grantRolesToUser("admin", ["replay"]);
}

function forbidReplay() {
  // This takes it from the user as well.
  admin.dropRole("replay");
}

// Whole databases: a collection that is younger than the backup must not stay.
function dropDatabases() {
  for (const { name } of admin.adminCommand({ listDatabases: 1 }).databases) {
    if (!OF_THE_SERVER.includes(name)) db.getSiblingDB(name).dropDatabase();
  }
}
