// For mongosh after administer.js, while no server runs: copies what docker-compose.yml kept in one database into the
// databases that docker-compose.split.yml uses. The one database stays as it is.

const TARGETS = {
  orders: "orders", erasures: "orders",
  payments: "payments", ledger: "payments", notifications: "payments",
  webhook_endpoints: "webhooks", webhook_deliveries: "webhooks",
  secrets: "gateway",
};
const one = db.getSiblingDB("orderflow");

for (const [collection, target] of Object.entries(TARGETS)) {
  if (db.getSiblingDB(target)[collection].findOne()) throw new Error(`${target}.${collection} is not empty`);
}
for (const [collection, target] of Object.entries(TARGETS)) {
  one[collection].aggregate([{ $out: { db: target, coll: collection } }]);
  print(`${db.getSiblingDB(target)[collection].countDocuments()} of ${collection} are in ${target}`);
}
