//! The directory tree goes in at one server and is checked at the other.

use causeway_tests::{
    result::{Result, ensure},
    wait,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Story;
use crate::{
    show::Show,
    tree::{File, Tree},
};

/// Items in one request, and their bytes.
const BATCH_ITEMS: usize = 100;
const BATCH_BYTES: usize = 512 << 10;

/// Writes every file as an item in the north, and compares all of them in the south.
pub async fn fill(story: &Story, show: &mut Show, tree: &Tree) -> Result<()> {
    let bytes: u64 = tree.files.iter().map(|file| file.size).sum();
    show.step(&format!("A real directory tree goes in: {}", tree.folder.display()));
    let mut writes = Vec::with_capacity(tree.files.len());
    let mut uploads = 0;
    for (number, file) in tree.files.iter().enumerate() {
        let value = if let Some(value) = file.value() {
            value
        } else {
            uploads += 1;
            upload(story, file).await?
        };
        show.progress(&format!("read {} of {}", number + 1, tree.files.len()));
        writes.push(json!({ "key": file.key, "value": value }));
    }
    show.line(&format!(
        "{} files of {} kB together: {} as values, {uploads} as uploaded files; {} left out",
        tree.files.len(),
        bytes / 1_000,
        tree.files.len() - uploads,
        tree.left_out
    ));
    // A room's state shows only so many items: those that will be edited by
    // ordinary clients have to be among them, however large the folder is.
    let edited = |write: &Value| story.choice.all().any(|text| write["key"] == text.key);
    let (first, rest): (Vec<Value>, Vec<Value>) = writes.iter().cloned().partition(edited);
    let mut written = 0;
    for batch in batches(&first).into_iter().chain(batches(&rest)) {
        story.alice.write_batch(&story.room, batch).await?;
        written += batch.len();
        show.progress(&format!("written {written} of {}", writes.len()));
    }
    show.done(&format!("alice wrote {} items in the north, each durable when it was answered", writes.len()));
    compare(story, show, tree, &writes).await
}

/// As many writes to a request as its bounds allow.
fn batches(writes: &[Value]) -> Vec<&[Value]> {
    let mut batches = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (at, write) in writes.iter().enumerate() {
        let length = write.to_string().len();
        if at > start && (at - start == BATCH_ITEMS || bytes + length > BATCH_BYTES) {
            batches.push(&writes[start..at]);
            (start, bytes) = (at, 0);
        }
        bytes += length;
    }
    if start < writes.len() {
        batches.push(&writes[start..]);
    }
    batches
}

async fn upload(story: &Story, file: &File) -> Result<Value> {
    let content = file.read()?;
    let (size, sha256) = (content.len(), hex::encode(Sha256::digest(&content)));
    let url = story.alice.upload("application/octet-stream", content).await?;
    Ok(json!({ "file": {
        "url": url, "size": size, "mimetype": "application/octet-stream", "sha256": sha256,
    } }))
}

async fn compare(story: &Story, show: &mut Show, tree: &Tree, writes: &[Value]) -> Result<()> {
    let items = wait::until("all items in the south", async || {
        let items = story.bob.items(&story.room).await?;
        show.progress(&format!("in the south: {} of {}", items.len(), writes.len()));
        Ok((items.len() == writes.len()).then_some(items))
    })
    .await?;
    show.done("all of them are in the south");
    for ((item, write), file) in items.iter().zip(writes).zip(&tree.files) {
        ensure(item.key == file.key && !item.conflict && item.value() == Some(&write["value"]), || {
            format!("{} differs in the south", file.key)
        })?;
    }
    let mut fetched = 0;
    // Against what was uploaded: the file itself may have changed since.
    for (file, write) in tree.files.iter().zip(writes).filter(|(file, _)| file.text.is_none()) {
        let uploaded = &write["value"]["file"];
        let (status, content) = story.bob.download(uploaded["url"].as_str().unwrap_or_default()).await?;
        let same = uploaded["sha256"] == hex::encode(Sha256::digest(&content));
        ensure(status == 200 && same, || format!("{} can't be read in the south", file.key))?;
        fetched += 1;
        show.progress(&format!("{fetched} files downloaded from the south"));
    }
    show.done(&format!("bob compared every value and downloaded {fetched} files: all equal"));
    Ok(())
}
