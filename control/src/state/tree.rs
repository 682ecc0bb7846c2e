//! A sorted map that shares what is equal with its copies: a copy costs the same however much there is in it.
//!
//! A B+ tree. What is looked up or changed is mostly not in the processor's caches, and each step down a tree waits for memory: a leaf
//! holds its entries side by side, so that among a hundred thousand there are three or four steps.
//!
//! Of crates that do as much, imbl's licence isn't a permissive one, and rpds' tree has a node for each entry.
//!
//! A node is changed where it is, unless a copy of the map has it as well: then it is copied first, and so are those above it. Values are
//! copied with the leaf that they are in: large ones belong into an [`Arc`], as in a [`super::Map`].

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Entries of a leaf, or children of a branch, that are split in two.
const MANY: usize = 32;
/// With fewer, a node that isn't the root is put together with one beside it.
const FEW: usize = 8;

/// A map, in the order of its keys.
pub struct Tree<K, V> {
    root: Arc<Node<K, V>>,
    size: usize,
}

/// All leaves are equally deep.
#[derive(Clone)]
enum Node<K, V> {
    Leaf(Vec<(K, V)>),
    /// At least two children. What is in one isn't less than its key, and less than the next one's; the first one's key isn't looked at.
    Branch(Vec<Child<K, V>>),
}

type Child<K, V> = (K, Arc<Node<K, V>>);

impl<K, V> Tree<K, V> {
    /// How many there are.
    pub fn size(&self) -> usize {
        self.size
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// All of them.
    pub fn iter(&self) -> Iter<'_, K, V> {
        let mut iter = Iter::default();
        iter.enter(&self.root);
        iter
    }

    /// Their keys.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// Their values.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// What a key leads to.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let mut node = &*self.root;
        loop {
            match node {
                Node::Leaf(entries) => {
                    let at = find(entries, key).ok()?;
                    return Some(&entries[at].1);
                }
                Node::Branch(children) => node = &children[child(children, key)].1,
            }
        }
    }

    /// The last whose key isn't greater than this one.
    pub fn last_to<Q: Ord + ?Sized>(&self, most: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        self.root.last_to(most)
    }

    /// Those whose keys aren't less than this one.
    pub fn from<Q: Ord + ?Sized>(&self, least: &Q) -> Iter<'_, K, V>
    where
        K: Borrow<Q>,
    {
        let mut iter = Iter::default();
        let mut node = &*self.root;
        loop {
            match node {
                Node::Leaf(entries) => {
                    let at = find(entries, least).unwrap_or_else(|at| at);
                    iter.leaf = entries[at..].iter();
                    return iter;
                }
                Node::Branch(children) => {
                    let at = child(children, least);
                    iter.branches.push(children[at + 1..].iter());
                    node = &children[at].1;
                }
            }
        }
    }
}

impl<K: Ord + Clone, V: Clone> Tree<K, V> {
    /// What a key leads to, to be changed.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let mut node = Arc::make_mut(&mut self.root);
        loop {
            match node {
                Node::Leaf(entries) => {
                    let at = find(entries, key).ok()?;
                    return Some(&mut entries[at].1);
                }
                Node::Branch(children) => {
                    let at = child(children, key);
                    node = Arc::make_mut(&mut children[at].1);
                }
            }
        }
    }

    /// The same, and there is a default where there was nothing.
    pub fn or_default(&mut self, key: &K) -> &mut V
    where
        V: Default,
    {
        if self.get(key).is_none() {
            self.insert(key.clone(), V::default());
        }
        self.get_mut(key)
            .expect("it was there, or was put there just now")
    }

    /// A key leads to this from now on. Returns what it has led to.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let root = Arc::make_mut(&mut self.root);
        let before = root.insert(key, value);
        if root.len() >= MANY {
            let (key, upper) = root.split();
            let lower = std::mem::take(&mut self.root);
            let children = vec![(key.clone(), lower), (key, upper)];
            self.root = Arc::new(Node::Branch(children));
        }
        self.size += usize::from(before.is_none());
        before
    }

    /// A key leads nowhere from now on. Returns what it has led to.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let root = Arc::make_mut(&mut self.root);
        let removed = root.remove(key)?;
        if let Node::Branch(children) = root
            && let [(_, only)] = &children[..]
        {
            self.root = Arc::clone(only);
        }
        self.size -= 1;
        Some(removed)
    }
}

impl<K, V> Node<K, V> {
    fn last_to<Q: Ord + ?Sized>(&self, most: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        match self {
            Self::Leaf(entries) => {
                let after = entries.partition_point(|(key, _)| key.borrow() <= most);
                let (key, value) = entries[..after].last()?;
                Some((key, value))
            }
            // The child that would have that key may have only greater ones.
            Self::Branch(children) => children[..=child(children, most)]
                .iter()
                .rev()
                .find_map(|(_, node)| node.last_to(most)),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Leaf(entries) => entries.len(),
            Self::Branch(children) => children.len(),
        }
    }
}

impl<K: Ord + Clone, V: Clone> Node<K, V> {
    /// There may be [`MANY`] in it then.
    fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self {
            Self::Leaf(entries) => match find(entries, &key) {
                Ok(at) => Some(std::mem::replace(&mut entries[at].1, value)),
                Err(at) => {
                    entries.insert(at, (key, value));
                    None
                }
            },
            Self::Branch(children) => {
                let at = child(children, &key);
                let node = Arc::make_mut(&mut children[at].1);
                let before = node.insert(key, value);
                if node.len() >= MANY {
                    let upper = node.split();
                    children.insert(at + 1, upper);
                }
                before
            }
        }
    }

    /// There may be few in it then.
    fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        match self {
            Self::Leaf(entries) => {
                let at = find(entries, key).ok()?;
                Some(entries.remove(at).1)
            }
            Self::Branch(children) => {
                let at = child(children, key);
                let node = Arc::make_mut(&mut children[at].1);
                let removed = node.remove(key)?;
                if node.len() < FEW {
                    Self::join(children, at);
                }
                Some(removed)
            }
        }
    }

    /// Parts with the upper half.
    fn split(&mut self) -> Child<K, V> {
        match self {
            Self::Leaf(entries) => {
                let upper = entries.split_off(entries.len() / 2);
                (upper[0].0.clone(), Arc::new(Self::Leaf(upper)))
            }
            Self::Branch(children) => {
                let upper = children.split_off(children.len() / 2);
                (upper[0].0.clone(), Arc::new(Self::Branch(upper)))
            }
        }
    }

    /// One of the children is put together with one beside it.
    fn join(children: &mut Vec<Child<K, V>>, at: usize) {
        let at = at.min(children.len() - 2);
        let (_, upper) = children.remove(at + 1);
        let node = Arc::make_mut(&mut children[at].1);
        match (&mut *node, Arc::unwrap_or_clone(upper)) {
            (Self::Leaf(entries), Self::Leaf(more)) => entries.extend(more),
            // What the upper one's first key was in its own is its key here as well: both are from where it was split off.
            (Self::Branch(children), Self::Branch(more)) => children.extend(more),
            _ => unreachable!("all leaves are equally deep"),
        }
        if node.len() >= MANY {
            let upper = node.split();
            children.insert(at + 1, upper);
        }
    }
}

/// Where a key is, or would be.
fn find<K: Borrow<Q>, V, Q: Ord + ?Sized>(entries: &[(K, V)], key: &Q) -> Result<usize, usize> {
    entries.binary_search_by(|(known, _)| known.borrow().cmp(key))
}

/// The child that has a key, if any does.
fn child<K: Borrow<Q>, V, Q: Ord + ?Sized>(children: &[(K, V)], key: &Q) -> usize {
    children[1..].partition_point(|(from, _)| from.borrow() <= key)
}

/// Goes through a map, in the order of its keys.
pub struct Iter<'a, K, V> {
    /// Of each branch above the leaf, the children after that.
    branches: Vec<std::slice::Iter<'a, Child<K, V>>>,
    leaf: std::slice::Iter<'a, (K, V)>,
}

impl<'a, K, V> Iter<'a, K, V> {
    fn enter(&mut self, mut node: &'a Node<K, V>) {
        loop {
            match node {
                Node::Leaf(entries) => {
                    self.leaf = entries.iter();
                    return;
                }
                Node::Branch(children) => {
                    node = &children[0].1;
                    self.branches.push(children[1..].iter());
                }
            }
        }
    }
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.leaf.next() {
                return Some((key, value));
            }
            match self.branches.last_mut()?.next() {
                Some((_, node)) => self.enter(node),
                None => {
                    self.branches.pop();
                }
            }
        }
    }
}

impl<K, V> Default for Iter<'_, K, V> {
    fn default() -> Self {
        Self {
            branches: Vec::new(),
            leaf: [].iter(),
        }
    }
}

impl<K, V> Default for Node<K, V> {
    fn default() -> Self {
        Self::Leaf(Vec::new())
    }
}

impl<K, V> Default for Tree<K, V> {
    fn default() -> Self {
        Self {
            root: Arc::default(),
            size: 0,
        }
    }
}

impl<K, V> Clone for Tree<K, V> {
    fn clone(&self) -> Self {
        Self {
            root: Arc::clone(&self.root),
            size: self.size,
        }
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for Tree<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut tree = Self::default();
        for (key, value) in entries {
            tree.insert(key, value);
        }
        tree
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for Tree<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.size == other.size && self.iter().eq(other.iter())
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for Tree<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    impl<K: Ord, V> Tree<K, V> {
        /// Leaves are equally deep, nodes neither too small nor too large, and keys where they are looked for.
        fn assert_sound(&self) {
            fn depth<K: Ord, V>(node: &Node<K, V>, is_root: bool, within: [Option<&K>; 2]) -> u32 {
                let holds = |key: &K| {
                    within[0].is_none_or(|least| least <= key)
                        && within[1].is_none_or(|end| key < end)
                };
                assert!(node.len() < MANY && (is_root || node.len() >= FEW));
                let children = match node {
                    Node::Leaf(entries) => {
                        assert!(entries.is_sorted_by(|(one, _), (next, _)| one < next));
                        assert!(entries.iter().all(|(key, _)| holds(key)));
                        return 0;
                    }
                    Node::Branch(children) => children,
                };
                assert!(children.len() >= 2);
                assert!(children[1..].iter().all(|(key, _)| holds(key)));
                let end = |at: usize| children.get(at + 1).map(|(key, _)| key).or(within[1]);
                let least = |at: usize| match at {
                    0 => within[0],
                    _ => Some(&children[at].0),
                };
                let depths = children.iter().enumerate();
                let mut depths =
                    depths.map(|(at, (_, node))| depth(node, false, [least(at), end(at)]));
                let first = depths.next().unwrap();
                assert!(depths.all(|other| other == first));
                first + 1
            }
            depth(&self.root, true, [None, None]);
        }
    }

    proptest! {
        #[test]
        fn a_map_is_what_the_standard_librarys_is_and_its_copies_stay_as_they_were(
            steps in proptest::collection::vec((0u8..16, any::<u16>()), 0..4000),
            // Many of few keys, so that most is met again, or few of many.
            keys in 1u16..3000,
        ) {
            let (mut map, mut expected) = (Tree::<u16, usize>::default(), BTreeMap::new());
            let mut copies = Vec::new();
            // It grows, and then it shrinks.
            let half = steps.len() / 2;
            for (number, (what, key)) in steps.into_iter().enumerate() {
                let key = key % keys;
                let removes = if number < half { 4 } else { 12 };
                match what {
                    0 if copies.len() < 8 => copies.push((map.clone(), expected.clone())),
                    1 => prop_assert_eq!(map.get_mut(&key), expected.get_mut(&key)),
                    2 => *map.or_default(&key) = *expected.entry(key).or_default(),
                    what if what < removes => prop_assert_eq!(map.remove(&key), expected.remove(&key)),
                    _ => prop_assert_eq!(map.insert(key, number), expected.insert(key, number)),
                }
                prop_assert_eq!(map.get(&key), expected.get(&key));
                prop_assert!(map.from(&key).take(3).eq(expected.range(key..).take(3)));
                prop_assert_eq!(map.last_to(&key), expected.range(..=key).next_back());
            }
            copies.push((map, expected));
            for (map, expected) in copies {
                map.assert_sound();
                prop_assert_eq!((map.size(), map.is_empty()), (expected.len(), expected.is_empty()));
                prop_assert!(map.iter().eq(&expected));
            }
        }
    }
}
