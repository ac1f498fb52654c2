// Which files need each other in a circle.

/** @param needs each file with those that it needs; returns the circles, each as 'a → b → a' */
export function circlesIn(needs) {
  const circles = [];
  const done = new Set();
  const visit = (file, path) => {
    if (path.includes(file)) circles.push([...path.slice(path.indexOf(file)), file].join(' → '));
    if (path.includes(file) || done.has(file)) return;
    for (const needed of needs.get(file)) visit(needed, [...path, file]);
    done.add(file);
  };
  for (const file of needs.keys()) visit(file, []);
  return circles;
}
