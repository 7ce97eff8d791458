# Reads conf.d (the first argument) as Puppet Server would, and prints what is wrong as JSON: [[file, problem], ...].
#
# Trapperkeeper merges the files, and refuses a value that stands in two of them. Substitutions stay unresolved: the
# server's environment is not ours. Exit code 9: this Ruby has no HOCON library.
begin
  require 'hocon'
  require 'hocon/config_factory'
rescue LoadError
  exit 9
end
require 'json'
require 'yaml'
problems, seen = [], {}
note = lambda do |file, path, value|
  inner = if value.is_a?(Hash) then value
          elsif value.is_a?(Hocon::Impl::SimpleConfigObject) then value.key_set.to_h { |key| [key, value[key]] } end
  other, other_inner = seen[path]
  if other && other != file && (inner.nil? || !other_inner)
    problems << [file, "#{path.join('.')} stands in #{File.basename(other)}, too"]
  elsif other.nil?
    seen[path] = [file, !inner.nil?]
  end
  inner&.each { |key, below| note.call(file, path + [key.to_s], below) }
end
Dir.children(ARGV[0]).sort.each do |name|
  file = File.join(ARGV[0], name)
  begin
    case File.extname(name)
    when '.conf', '.json' then root = Hocon::ConfigFactory.parse_file(file).root
    when '.yaml', '.yml' then root = YAML.safe_load(File.read(file)) || {}
    else next
    end
    note.call(file, [], root)
  rescue StandardError, SyntaxError => error
    problems << [file, error.message.gsub(/\s+/, ' ').delete_prefix("#{file}: ")]
  end
end
puts JSON.generate(problems)
